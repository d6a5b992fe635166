package attack

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// A pod with CAP_NET_ADMIN changes rules. The control is a pod whose rules belong
// to nobody, since its node's podwalld is dead: there the same command opens it.
func TestTampering(t *testing.T) {
	t.Parallel()
	f, orphaned := newField(t), newFieldNamed(t, "orphaned")
	orphans := map[string]*pod{}
	for _, a := range tamperings() {
		orphans[a.name] = orphaned.protected(t, "jail")
	}
	must(t, orphaned.Kill())
	for _, a := range tamperings() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.succeed(t, orphaned, orphans[a.name])
			a.fail(t, f, f.protected(t, "jail"))
		})
	}
}

// A tampering is a command that opens a pod of jail.
type tampering struct{ name, script string }

// knock sends a datagram to the world, if that is not refused.
func knock(t *testing.T, p *pod, token []byte) {
	t.Helper()
	_ = p.act(t, acts(plain(netip.AddrPortFrom(lab.World4, 8080), nil, token)), nil)
}

// succeed opens a pod whose rules nobody holds.
func (a tampering) succeed(t *testing.T, f *field, p *pod) {
	t.Helper()
	token := newToken()
	knock(t, p, token)
	if arrives(f.here, token) {
		t.Fatal("the orphaned pod was open all the time")
	}
	must(t, p.act(t, intruder.Act{Script: a.script}, []int{intruder.NetAdmin}))
	eventually(t, func() error {
		knock(t, p, token)
		if !arrives(f.beyond, token) {
			return errSilence
		}
		return nil
	})
}

// fail tampers with rules that podwalld holds: the pod stays shut from the
// command on, and afterwards its rules are what they should be.
func (a tampering) fail(t *testing.T, f *field, p *pod) {
	t.Helper()
	token := newToken()
	refused := p.act(t, intruder.Act{Script: a.script, Sends: []intruder.Send{
		plain(netip.AddrPortFrom(lab.World4, 8080), nil, token),
	}}, []int{intruder.NetAdmin})
	for range 5 {
		knock(t, p, token)
	}
	if arrives(f.here, token) {
		t.Errorf("%d frames got out, want none; to the intruder the kernel said: %v", f.here.saw(token), refused)
	}
	eventually(t, func() error { return f.inSync(t, p) })
}

// tamperings are ways to change the rules.
func tamperings() []tampering {
	return []tampering{
		{"flush of the ruleset", "nft flush ruleset"},
		{"delete of the table", "nft delete table inet podwall"},
		{"delete of the guard and the table", "nft 'delete table netdev podwall; delete table inet podwall'"},
		{"delete of the chains", "nft 'flush table inet podwall; delete chain inet podwall eth0/postrouting'"},
		{"other policies of the chains", "nft 'flush table inet podwall; chain inet podwall eth0/postrouting { policy accept; }'"},
		{"rule before the others", "nft insert rule inet podwall eth0/postrouting accept"},
		{"rule in the chain for what the pod opens", "nft insert rule inet podwall eth0/egress accept"},
	}
}

// Rules that were changed while nobody held them are put right: within a second
// where tamper protection is off, at podwalld's start where it was away. Both are
// reported.
func TestRepair(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(f *field, tamper func()){
		"without-protection": func(_ *field, tamper func()) { tamper() },
		"without-podwalld": func(f *field, tamper func()) {
			must(t, f.Kill())
			tamper()
			must(t, f.Start(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFieldNamed(t, "repair-"+name, "--tamper-protection", "off")
			p := f.protected(t, "jail")
			between(f, func() { must(t, p.act(t, intruder.Act{Script: "nft flush ruleset"}, []int{intruder.NetAdmin})) })
			start := time.Now()
			eventually(t, func() error { return f.inSync(t, p) })
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("repaired after %s, want a second", took)
			}
			after := newToken()
			knock(t, p, after)
			if arrives(f.here, after) {
				t.Error("the pod is open after the repair")
			}
			log, err := os.ReadFile(f.LogFile())
			must(t, err)
			if want := "changed by somebody else"; !strings.Contains(string(log), want) {
				t.Errorf("podwalld's log does not say %q:\n%s", want, log)
			}
		})
	}
}

// An accepting chain of one's own accepts nothing that podwall drops, whenever
// it is asked.
func TestAcceptingChain(t *testing.T) {
	t.Parallel()
	wage(t, newField(t), acceptingChains(), "jail", "narrow")
}

// acceptingChains are rules in tables of the intruder's own.
func acceptingChains() []attack {
	to := func(name, addr, script string) attack {
		return attack{name: name, needs: []int{intruder.NetAdmin}, far: true, damage: true,
			act: func(_ *field, _ *pod, token []byte) intruder.Act {
				return intruder.Act{Script: script, Sends: []intruder.Send{plain(netip.MustParseAddrPort(addr), nil, token)}}
			}}
	}
	const world = "192.0.2.1:8080"
	return []attack{
		to("chain before podwall's", world, "nft 'table inet a { chain c { type filter hook output priority raw; accept; }; }'"),
		to("chain after podwall's", world, "nft 'table inet a { chain c { type filter hook output priority 500; accept; }; }'"),
		to("chain at postrouting", world, "nft 'table ip a { chain c { type filter hook postrouting priority -500; accept; }; }'"),
		to("chain at the device", world, "nft 'table netdev a { chain c { type filter hook egress device eth0 priority -500; accept; }; }'"),
		to("rules of iptables", world, "iptables-nft -I OUTPUT -j ACCEPT; iptables-nft -t mangle -I OUTPUT -j ACCEPT; iptables-nft -t raw -I OUTPUT -j ACCEPT"),
		to("connections not tracked", world, "nft 'table inet a { chain c { type filter hook output priority raw; notrack; }; }'"),
		to("source translated", world, "nft 'table ip a { chain c { type nat hook postrouting priority 100; snat to 10.1.0.200; }; }'"),
		to("routes of one's own", world, "ip rule add priority 5 table 7; ip route add default via 10.1.0.1 dev eth0 table 7"),
		// The node is allowed; what the pod calls the node's address is the world's.
		to("destination translated", "10.1.0.1:8080", "nft 'table ip a { chain c { type nat hook output priority -100; ip daddr 10.1.0.1 dnat to 192.0.2.1; }; }'"),
	}
}

// inSync returns an error unless the kernel holds what it should of a pod.
func (f *field) inSync(t *testing.T, p *pod) error {
	t.Helper()
	out, err := f.Policyctl(t.Context(), "inspect", p.ID, "-o", "json")
	if err != nil {
		return err
	}
	if !strings.Contains(out, `"inSync": true`) {
		return fmt.Errorf("pod %s: %s", p.Pod(), out)
	}
	return nil
}
