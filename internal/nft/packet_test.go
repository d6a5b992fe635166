package nft_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// apply makes rs the firewall of a pod, or ends the test. The addresses of a pod
// of a Lab are its own, whatever rs says.
func apply(t testing.TB, ns interface{ FD() int }, rs ruleset.RuleSet, last *nft.Known) *nft.Known {
	t.Helper()
	if p, ok := ns.(*netnstest.Pod); ok {
		rs.Addresses = []netip.Addr{p.IP4, p.IP6}
	}
	now, _, err := nft.Apply(ns.FD(), "eth0", rs, last)
	if err != nil {
		t.Fatal(err)
	}
	return &now
}

// conn is an open TCP connection from one namespace to an echo in another.
func conn(t testing.TB, from *netnstest.NS, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	netnstest.Eventually(t, func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err = from.Dial(ctx, "tcp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	netnstest.Eventually(t, func() error { return netnstest.Echoed(c, time.Second) })
	return c
}

const brief = 300 * time.Millisecond

func mustEcho(t testing.TB, what string, c net.Conn) {
	t.Helper()
	if err := netnstest.Echoed(c, 2*time.Second); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func mustBeSilent(t testing.TB, what string, c net.Conn) {
	t.Helper()
	if err := netnstest.Echoed(c, brief); err == nil {
		t.Errorf("%s: still answered", what)
	}
}

// from admits TCP to port 80 from peers and, like every rule set here, leaves
// egress alone.
func from(ps ruleset.Peers) ruleset.RuleSet {
	return ruleset.RuleSet{Addresses: both, Ingress: isolated(rule("api", ruleset.Accept, ps, tcp(80)...)), Egress: open}
}

func TestRevokedConnectionStopsAndComesBack(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "tcp", ":80")
	allowed, denied := from(peers(client.IP4.String(), client.IP6.String())), from(ruleset.Peers{})
	for _, addr := range []string{server.Addr4(80), server.Addr6(80)} {
		known := apply(t, server, allowed, nil)
		c := conn(t, client.NS, addr)
		known = apply(t, server, denied, known)
		mustBeSilent(t, addr+" after the revocation", c)
		apply(t, server, allowed, known)
		mustEcho(t, addr+" after the rule came back", c)
	}
}

// The connection of one peer goes, that of another stays, although both were
// judged again.
func TestRevocationStopsOnlyWhatIsRevoked(t *testing.T) {
	lab := netnstest.Bridge(t, 3)
	one, two, server := lab.Pods[0], lab.Pods[1], lab.Pods[2]
	server.Echo(t, "tcp", ":80")
	known := apply(t, server, from(peers(one.IP4.String(), two.IP4.String())), nil)
	first, second := conn(t, one.NS, server.Addr4(80)), conn(t, two.NS, server.Addr4(80))
	apply(t, server, from(peers(two.IP4.String())), known)
	mustBeSilent(t, "the peer that was taken out", first)
	mustEcho(t, "the peer that stayed", second)
}

func TestEgressRevocationStopsThePodsOwnConnection(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	pod, far := lab.Pods[0], lab.Pods[1]
	far.Echo(t, "tcp", ":80")
	to := func(ps ruleset.Peers) ruleset.RuleSet {
		return ruleset.RuleSet{Addresses: both, Ingress: isolated(), Egress: isolated(rule("out", ruleset.Accept, ps, tcp(80)...))}
	}
	known := apply(t, pod, to(peers(far.IP4.String())), nil)
	c := conn(t, pod.NS, far.Addr4(80))
	apply(t, pod, to(ruleset.Peers{}), known)
	mustBeSilent(t, "after the revocation", c)
}

// A transaction that only adds leaves the epoch, and with it the fast path of
// every open connection.
func TestAddingKeepsTheEpoch(t *testing.T) {
	ns := pod(t)
	known := apply(t, ns, from(peers("10.0.0.3")), nil)
	for _, step := range []struct {
		name  string
		rules ruleset.RuleSet
		moves bool
	}{
		{"a peer more", from(peers("10.0.0.3", "10.0.0.4")), false},
		{"a block around the peers", from(peers("10.0.0.0/24")), false},
		{"no isolation any more", ruleset.RuleSet{Addresses: both, Ingress: open, Egress: open}, false},
		{"isolated again", from(peers("10.0.0.0/24")), true},
		{"a peer less", from(peers("10.0.0.3")), true},
	} {
		now := apply(t, ns, step.rules, known)
		if moved := now.Epoch != known.Epoch; moved != step.moves {
			t.Errorf("%s: epoch moved is %v, want %v", step.name, moved, step.moves)
		}
		known = now
	}
}

func TestCountersGoOnOverAChange(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "tcp", ":80")
	known := apply(t, server, from(peers(client.IP4.String())), nil)
	conn(t, client.NS, server.Addr4(80))
	wider := from(peers(client.IP4.String()))
	wider.Ingress.Tiers[0].Rules = append(wider.Ingress.Tiers[0].Rules, rule("more", ruleset.Accept, ruleset.Everyone, tcp(81)...))
	apply(t, server, wider, known)
	counts, err := nft.Counters(server.FD())
	if err != nil {
		t.Fatal(err)
	}
	name := ruleset.CounterOf("eth0", ruleset.Ingress, ruleset.TierPolicy, wider.Ingress.Tiers[0].Rules[0])
	if counts[name].Packets == 0 {
		t.Errorf("counter %s is 0 after the change", name)
	}
}

// Others keep their 16 bits of the connection mark.
func TestLowerBitsOfTheMarkBelongToOthers(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "tcp", ":80")
	server.Run(t, "nft 'add table inet mesh; add chain inet mesh c { type filter hook prerouting priority -160; }; add rule inet mesh c ct state new ct mark set 1337'")
	apply(t, server, from(peers(client.IP4.String())), nil)
	conn(t, client.NS, server.Addr4(80))
	if n := server.Run(t, "conntrack -L -m 1337/0xffff 2>/dev/null | wc -l"); n != "1\n" {
		t.Errorf("connections with mark 1337 in the lower bits: %swant 1", n)
	}
}

// Connections that were open before the first rule stay if either way round is
// allowed, and go otherwise.
func TestAdoptedPodKeepsItsOpenConnections(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	far, pod := lab.Pods[0], lab.Pods[1]
	for _, port := range []string{":80", ":81"} {
		pod.Echo(t, "tcp", port)
		far.Echo(t, "tcp", port)
	}
	in80, in81 := conn(t, far.NS, pod.Addr4(80)), conn(t, far.NS, pod.Addr4(81))
	out80, out81 := conn(t, pod.NS, far.Addr4(80)), conn(t, pod.NS, far.Addr6(81))
	rs := ruleset.RuleSet{Addresses: both, Adopted: ruleset.AdoptedNow,
		Ingress: isolated(rule("in", ruleset.Accept, peers(far.IP4.String()), tcp(80)...)),
		Egress:  isolated(rule("out", ruleset.Accept, peers(far.IP4.String()), tcp(80)...))}
	known := apply(t, pod, rs, nil)
	for name, c := range map[string]net.Conn{"allowed, opened by the peer": in80, "allowed, opened by the pod": out80} {
		mustEcho(t, name, c)
	}
	for name, c := range map[string]net.Conn{"denied, opened by the peer": in81, "denied, opened by the pod": out81} {
		mustBeSilent(t, name, c)
	}
	rs.Ingress = isolated()
	apply(t, pod, rs, known)
	mustBeSilent(t, "opened by the peer, and revoked after the adoption", in80)
	mustEcho(t, "opened by the pod, and still allowed", out80)
}

// What IPv6 and large packets need passes an isolated pod: neighbour discovery
// both ways, and fragments of what is allowed.
func TestIsolationLeavesNeighbourDiscoveryAndFragments(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "udp", ":53")
	rs := ruleset.RuleSet{Addresses: both, Egress: isolated(),
		Ingress: isolated(rule("dns", ruleset.Accept, peers(client.IP4.String(), client.IP6.String()), ruleset.Ports{Proto: ruleset.UDP, First: 53, Last: 53}))}
	apply(t, server, rs, nil)
	for _, p := range lab.Pods {
		p.Run(t, "ip -6 neigh flush dev eth0; ip neigh flush dev eth0")
	}
	for _, addr := range []string{server.Addr4(53), server.Addr6(53)} {
		netnstest.Flow{From: client.NS, Network: "udp", To: addr}.MustPass(t)
		c, err := client.Dial(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		netnstest.Eventually(t, func() error {
			big := make([]byte, 8000) // six fragments
			if _, err := c.Write(big); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			n, err := c.Read(big)
			if err == nil && n != len(big) {
				err = fmt.Errorf("%d bytes came back", n)
			}
			return err
		})
	}
}

func TestPingNeedsARuleOfItsOwn(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	ping := func(addr string) error {
		_, err := client.RunErr("ping -c 1 -W 1 " + addr)
		return err
	}
	for _, addr := range []string{server.IP4.String(), server.IP6.String()} {
		known := apply(t, server, ruleset.RuleSet{Addresses: both, Ingress: open, Egress: open}, nil)
		netnstest.Eventually(t, func() error { return ping(addr) })
		known = apply(t, server, from(ruleset.Everyone), known)
		if ping(addr) == nil {
			t.Errorf("ping %s passes a policy for TCP 80", addr)
		}
		rs := from(ruleset.Everyone)
		rs.Ingress.Tiers[0].Rules[0].Matches[0].Ports = []ruleset.Ports{ruleset.AnyPort}
		apply(t, server, rs, known)
		netnstest.Eventually(t, func() error { return ping(addr) })
	}
}

// A router on the way, which no policy names, says that a packet was too big;
// the flow is allowed, so the pod must hear it.
func TestPathMTUDiscoveryWorksThroughIsolation(t *testing.T) {
	node, pod, far := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, node, netnstest.End{Name: "pod0", Addrs: []string{"10.1.0.1/24", "fd01::1/64"}},
		pod, netnstest.End{Name: "eth0", Addrs: []string{"10.1.0.2/24", "fd01::2/64"}})
	netnstest.Join(t, node, netnstest.End{Name: "far0", Addrs: []string{"10.2.0.1/24", "fd02::1/64"}},
		far, netnstest.End{Name: "eth0", Addrs: []string{"10.2.0.2/24", "fd02::2/64"}})
	node.Run(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip link set far0 mtu 1300")
	// The far end asks for larger segments than the way to it takes.
	far.Run(t, "ip link set eth0 mtu 1300; ip route add default via 10.2.0.1 advmss 1460; ip -6 route add default via fd02::1 advmss 1440")
	pod.Run(t, "ip route add default via 10.1.0.1; ip -6 route add default via fd01::1")
	far.Echo(t, "tcp", ":80")
	apply(t, pod, ruleset.RuleSet{Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2")}, Ingress: isolated(),
		Egress: isolated(rule("out", ruleset.Accept, peers("10.2.0.2", "fd02::2"), tcp(80)...))}, nil)
	for _, addr := range []string{"10.2.0.2:80", "[fd02::2]:80"} {
		c := conn(t, pod, addr)
		sent := make([]byte, 64<<10)
		go func() { _, _ = c.Write(sent) }()
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(sent); {
			n, err := c.Read(make([]byte, 4096))
			if got += n; err != nil {
				t.Errorf("%s: %d of %d bytes came back: %v", addr, got, len(sent), err)
				break
			}
		}
	}
	for _, get := range []string{"ip route get 10.2.0.2", "ip -6 route get fd02::2"} {
		if out := pod.Run(t, get); !strings.Contains(out, "mtu 1300") {
			t.Errorf("%s: the pod never heard that packets were too big: %s", get, out)
		}
	}
}

// Packets that connection tracking can't place, here because somebody told it
// not to, pass a pod that no policy selects, and no other.
func TestUntrackedPacketsPassOnlyAnOpenPod(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "tcp", ":80")
	server.Run(t, `nft 'add table inet raw
		add chain inet raw in { type filter hook prerouting priority raw; }
		add chain inet raw out { type filter hook output priority raw; }
		add rule inet raw in tcp dport 80 notrack
		add rule inet raw out tcp sport 80 notrack' `)
	known := apply(t, server, ruleset.RuleSet{Addresses: both, Ingress: open, Egress: open}, nil)
	netnstest.MustBlock(t,
		func() { apply(t, server, from(ruleset.Everyone), known) },
		netnstest.Flow{From: client.NS, Network: "tcp", To: server.Addr4(80)})
}

// Rule sets with blocks and without, walked and dispatched, replace one another
// under a flow that all of them allow. The kernel finds a new interval set's
// elements a moment after it uses the rules that came with it: this test lost
// packets while both were one transaction.
func TestReplacedRulesLoseNoAllowedPacket(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "udp", ":53")
	rng := rand.New(rand.NewPCG(1, 1))
	dns := ruleset.Ports{Proto: ruleset.UDP, First: 53, Last: 53}
	version := func(i int) ruleset.RuleSet {
		rules := manyRules([]int{1, 3, 20}[rng.IntN(3)])
		r := rng.IntN(len(rules))
		friends := []string{client.IP4.String(), fmt.Sprintf("198.18.0.%d", i%256)}
		if rng.IntN(2) == 0 {
			friends = append(friends, fmt.Sprintf("198.19.%d.0/24", i%256))
		}
		rules[r].Matches = []ruleset.Match{{Peers: peers(friends...), Ports: [][]ruleset.Ports{{ruleset.AnyPort}, {dns}}[rng.IntN(2)]}}
		return ruleset.RuleSet{Ingress: isolated(rules...), Egress: open}
	}
	last := apply(t, server, version(0), nil)
	netnstest.Flow{From: client.NS, Network: "udp", To: server.Addr4(53)}.MustPass(t)
	s := client.StartStream(t, server.Addr4(53), 200*time.Microsecond)
	for i := range 200 {
		last = apply(t, server, version(i), last)
	}
	if sent, returned := s.Stop(); sent != returned {
		t.Errorf("%d of %d allowed packets lost over 200 changes", sent-returned, sent)
	}
}
