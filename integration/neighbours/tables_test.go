package neighbours

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

// besideFlows are what meshPolicy says about a pod without a mesh.
func besideFlows(app, friend, stranger *lab.Sandbox) []lab.Expectation {
	var all []lab.Expectation
	for _, v6 := range []bool{false, true} {
		for _, f := range []struct {
			from, to *lab.Sandbox
			proto    string
			port     uint16
			pass     bool
		}{
			{friend, app, "tcp", 80, true}, {friend, app, "udp", 5300, true}, {friend, app, "tcp", 8080, false},
			{stranger, app, "tcp", 80, false}, {stranger, app, "udp", 5300, false},
			{app, friend, "tcp", 80, true}, {app, friend, "udp", 5300, true}, {app, friend, "tcp", 8080, false},
			{app, stranger, "tcp", 80, false}, {app, stranger, "udp", 5300, false},
			{app, app, "tcp", 80, true},
		} {
			at := netip.AddrPortFrom(f.to.Addr(v6), f.port)
			all = append(all, lab.Expectation{
				Name: fmt.Sprintf("%s to %s, %s to %s", f.from.Pod(), f.to.Pod(), f.proto, at), Pass: f.pass,
				Flow: lab.Flow{From: f.from.Netns, Proto: f.proto, To: at},
			})
		}
	}
	return all
}

// A block is a node with three pods, of which app has tables of its own.
type block struct {
	*lab.Node
	app, friend, stranger *lab.Sandbox
}

func newBlock(t *testing.T) *block {
	t.Helper()
	b := &block{Node: startNode(t, meshCast)}
	b.friend = addPod(t, b.Node, "mesh", "friend", 80, 8080, 5300)
	b.stranger = addPod(t, b.Node, "other", "stranger", 80, 5300)
	return b
}

// addApp adds the pod app, with rules put into its namespace before ADD or after.
func (b *block) addApp(t *testing.T, rules string, before bool) {
	t.Helper()
	var err error
	b.app, err = b.NewSandbox("mesh", "app")
	must(t, err)
	t.Cleanup(func() { _ = b.app.Delete() })
	if before {
		run(t, b.app.Netns, rules)
	}
	must(t, b.Add(t.Context(), b.Network(), b.app, "eth0"))
	if !before {
		run(t, b.app.Netns, rules)
	}
	serve(t, b.app.Netns, b.app.Addrs, 80, 8080, 5300)
}

func (b *block) flows() []lab.Expectation { return besideFlows(b.app, b.friend, b.stranger) }

// judged tries all flows without policy, and with it.
func (b *block) judged(t *testing.T) {
	t.Helper()
	expectOpen(t, b.flows())
	must(t, b.WriteManifest(policyFile, meshPolicy))
	expect(t, b.flows())
}

// welcoming tables accept everything, at every hook, before podwall's chains and
// behind them.
func welcoming() string {
	var s strings.Builder
	s.WriteString("nft -f - <<end\ntable inet welcome {\n")
	for i, prio := range []int{-400, -151, -150, -149, -1, 0, 1, 400} {
		for _, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
			fmt.Fprintf(&s, "chain %s%d { type filter hook %s priority %d; policy accept; meta mark set 7 accept; }\n", hook, i, hook, prio)
		}
	}
	s.WriteString("}\nend")
	return s.String()
}

// iptables is a shell command for both families.
func iptables(variant, rule string) string {
	return fmt.Sprintf("for i in iptables-%s ip6tables-%s; do $i %s || exit; done\n", variant, variant, rule)
}

func acceptAll(variant string) string {
	var s strings.Builder
	for _, chain := range []string{"INPUT", "OUTPUT", "FORWARD"} {
		s.WriteString(iptables(variant, "-I "+chain+" -j ACCEPT"))
		s.WriteString(iptables(variant, "-t mangle -I "+chain+" -j ACCEPT"))
	}
	return s.String()
}

// Each accept is an opinion, each drop a decision: nobody else's accept opens what
// podwall closes.
func TestOthersAcceptDoesNotOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, rules string }{
		{"nft", welcoming()},
		{"iptables-nft", acceptAll("nft")},
		{"iptables-legacy", acceptAll("legacy")},
	} {
		for _, when := range []string{"before", "after"} {
			t.Run(tt.name+" "+when+" ADD", func(t *testing.T) {
				t.Parallel()
				b := newBlock(t)
				b.addApp(t, tt.rules, when == "before")
				b.judged(t)
			})
		}
	}
}

// What somebody else drops stays dropped, and comes back when they think again.
func TestOthersDropStaysTheirs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, drop, stop string }{
		{"nft", "nft add table inet grim; nft add chain inet grim in '{ type filter hook input priority 0; }'; nft add rule inet grim in meta l4proto '{ tcp, udp }' th dport '{ 80, 5300 }' iifname eth0 drop",
			"nft delete table inet grim"},
		{"iptables-nft", iptables("nft", "-A INPUT -i eth0 -p tcp --dport 80 -j DROP") + iptables("nft", "-A INPUT -i eth0 -p udp --dport 5300 -j DROP"),
			iptables("nft", "-F INPUT")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBlock(t)
			b.addApp(t, "", false)
			b.judged(t)
			closed := b.flows()
			for i := range closed {
				closed[i].Pass = closed[i].Pass && (closed[i].From == b.app.Netns || closed[i].From == b.Netns)
			}
			run(t, b.app.Netns, tt.drop)
			expect(t, closed)
			must(t, b.RemoveManifest(policyFile))
			for i := range closed {
				closed[i].Pass = closed[i].From == b.app.Netns || closed[i].To.Port() == 8080
			}
			expect(t, closed)
			run(t, b.app.Netns, tt.stop)
			expectOpen(t, b.flows())
		})
	}
}

// Marks of others live in the lower half of the connection's mark. Podwall writes
// beside them, whoever comes first at each packet.
func TestOthersMarksSurvive(t *testing.T) {
	t.Parallel()
	for _, prio := range []int{-160, -140, 10} {
		for _, when := range []string{"before", "after"} {
			t.Run(fmt.Sprintf("priority %d %s ADD", prio, when), func(t *testing.T) {
				t.Parallel()
				b := newBlock(t)
				b.addApp(t, fmt.Sprintf(`nft -f - <<end
table inet marker {
	chain in { type filter hook prerouting priority %[1]d; ct state new ct mark set ct mark and 0xffff0000 or 0x539; }
	chain out { type filter hook output priority %[1]d; ct state new ct mark set ct mark and 0xffff0000 or 0x53a; }
}
end`, prio), when == "before")
				b.judged(t)
				marks := run(t, b.app.Netns, "conntrack -L -o extended; conntrack -L -f ipv6")
				for _, f := range []struct {
					name, to string
					low      uint32
				}{
					{"friend to app", "src=" + b.friend.Addr(false).String() + " dst=" + b.app.Addr(false).String(), 0x539},
					{"app to friend", "src=" + b.app.Addr(false).String() + " dst=" + b.friend.Addr(false).String(), 0x53a},
					{"friend to app", "src=" + b.friend.Addr(true).String() + " dst=" + b.app.Addr(true).String(), 0x539},
				} {
					mustMark(t, marks, f.name, f.to, f.low)
				}
			})
		}
	}
}

// Somebody may also write the whole mark, epoch and all, at every packet. Then
// every packet is judged again, and verdicts are what they were.
func TestOthersOverwriteTheEpoch(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run(when+" ADD", func(t *testing.T) {
			t.Parallel()
			b := newBlock(t)
			b.addApp(t, iptables("nft", "-t mangle -A PREROUTING -j CONNMARK --set-mark 0x539")+
				iptables("nft", "-t mangle -A POSTROUTING -j CONNMARK --set-mark 0x539"), when == "before")
			b.judged(t)
		})
	}
}

// mustMark looks for a flow's accepted connections: all carry low beside podwall's
// epoch.
func mustMark(t *testing.T, marks, name, tuple string, low uint32) {
	t.Helper()
	found := 0
	for line := range strings.Lines(marks) {
		original, _, _ := strings.Cut(line, "sport=") // the other direction follows
		_, after, ok := strings.Cut(line, "mark=")
		if !ok || !strings.Contains(original, tuple+" ") {
			continue
		}
		var mark uint32
		if _, err := fmt.Sscan(after, &mark); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if mark&0xffff != low {
			t.Errorf("%s: mark is %#x, want %#x in its lower half: %s", name, mark, low, line)
		}
		if mark>>16 != 0 {
			found++
		}
	}
	if found == 0 {
		t.Errorf("%s: no connection carries an epoch:\n%s", name, marks)
	}
}

// A pod may call the far end by another name: here its own address. What is
// judged is where the packet goes, and a datagram that gets out needs no answer
// to be a leak.
func TestAliasOfAFarEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, rule string }{
		{"nft", "nft add table %[1]s alias; nft add chain %[1]s alias out '{ type nat hook output priority -100; }'; nft add rule %[1]s alias out %[1]s daddr %[2]s meta l4proto '{ tcp, udp }' th dport 5353 dnat to %[3]s:5300"},
		{"iptables-nft", "for p in tcp udp; do %[4]s-nft -t nat -A OUTPUT -d %[2]s -p $p --dport 5353 -j DNAT --to-destination %[3]s:5300; done"},
	} {
		for _, far := range []string{"friend", "stranger"} {
			t.Run(tt.name+" "+far, func(t *testing.T) {
				t.Parallel()
				b := newBlock(t)
				b.addApp(t, "", false)
				to := map[string]*lab.Sandbox{"friend": b.friend, "stranger": b.stranger}[far]
				b.alias(t, tt.rule, to)
				for _, v6 := range []bool{false, true} {
					b.heard(t, to, v6, true, "without policy")
				}
				must(t, b.WriteManifest(policyFile, meshPolicy))
				expect(t, b.flows())
				for _, v6 := range []bool{false, true} {
					b.heard(t, to, v6, far == "friend", "with policy")
				}
			})
		}
	}
}

// alias makes port 5353 of app's own addresses another name for port 5300 of to.
func (b *block) alias(t *testing.T, rule string, to *lab.Sandbox) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		family, tool, far := "ip", "iptables", to.Addr(v6).String()
		if v6 {
			family, tool, far = "ip6", "ip6tables", "["+far+"]"
		}
		run(t, b.app.Netns, fmt.Sprintf(rule, family, b.app.Addr(v6), far, tool))
	}
}

// heard sends datagrams to app's alias and says whether any arrives at to.
func (b *block) heard(t *testing.T, to *lab.Sandbox, v6, want bool, when string) {
	t.Helper()
	count := func() string {
		return run(t, to.Netns, "nft list counters table inet count | grep packets || true")
	}
	run(t, to.Netns, `nft -f - <<end
table inet count
delete table inet count
table inet count {
	counter heard {}
	chain in { type filter hook prerouting priority -300; udp dport 5300 counter name heard; }
}
end`)
	c, err := b.app.Dial(t.Context(), "udp", netip.AddrPortFrom(b.app.Addr(v6), 5353).String())
	must(t, err)
	defer func() { _ = c.Close() }()
	var got string
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, _ = c.Write([]byte("leak")) // refused where policy denies it
		if got = count(); !strings.Contains(got, "packets 0 ") {
			break
		}
	}
	if arrived := !strings.Contains(got, "packets 0 "); arrived != want {
		t.Errorf("%s, a datagram to the alias at %s arrives at %s: %v, want %v", when, b.app.Addr(v6), to.Pod(), arrived, want)
	}
}
