package nft_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// peers, rule and policy are the words in which these tests say rule sets.

func peers(ps ...string) ruleset.Peers {
	var out []netip.Prefix
	for _, p := range ps {
		if !strings.Contains(p, "/") {
			a := netip.MustParseAddr(p)
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		out = append(out, netip.MustParsePrefix(p))
	}
	return ruleset.NewPeers(out)
}

func tcp(ports ...uint16) []ruleset.Ports {
	var out []ruleset.Ports
	for _, p := range ports {
		out = append(out, ruleset.Ports{Proto: ruleset.TCP, First: p, Last: p})
	}
	return out
}

func rule(name string, action ruleset.Action, from ruleset.Peers, ports ...ruleset.Ports) ruleset.Rule {
	return ruleset.Rule{
		Origin:  ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name},
		Action:  action,
		Matches: []ruleset.Match{{Peers: from, Ports: ports}},
	}
}

func isolated(rules ...ruleset.Rule) ruleset.Chain {
	return ruleset.Chain{Default: ruleset.Accept, Tiers: []ruleset.Tier{{Name: ruleset.TierPolicy, Rules: rules}}}
}

var open = ruleset.Chain{Default: ruleset.Accept}

var both = []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}

// pod returns a namespace with an eth0.
func pod(t testing.TB) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	ns.Run(t, "ip link add eth0 type veth peer name far0")
	return ns
}

var samples = map[string]ruleset.RuleSet{
	"the zero rule set":     {},
	"a pod nothing selects": {Addresses: both, Ingress: open, Egress: open},
	"peers of both families, blocks and ports": {
		Addresses: both,
		Ingress: isolated(
			rule("api", ruleset.Accept, peers("10.0.0.3", "fd00::3"), tcp(80, 443)...),
			rule("block", ruleset.Accept, peers("10.1.0.0/16", "10.2.3.4", "::/0"), ruleset.AllPorts(ruleset.UDP)),
			rule("range", ruleset.Accept, ruleset.Everyone, ruleset.Ports{Proto: ruleset.TCP, First: 8000, Last: 8010}),
			rule("nobody", ruleset.Accept, ruleset.Peers{}, ruleset.AnyPort)),
		Egress: isolated(rule("all", ruleset.Accept, peers("0.0.0.0/0", "ffff::/16"), ruleset.AnyPort)),
	},
	"tiers with pass and deny": {
		Ingress: ruleset.Chain{Default: ruleset.Accept, Tiers: []ruleset.Tier{
			{Name: ruleset.TierAdmin, Default: ruleset.Pass, Rules: []ruleset.Rule{
				rule("first", ruleset.Pass, peers("10.0.0.9"), ruleset.AnyPort),
				rule("second", ruleset.Drop, peers("10.0.0.0/24"), tcp(22)...)}},
			{Name: ruleset.TierPolicy, Rules: []ruleset.Rule{rule("api", ruleset.Accept, ruleset.Everyone, tcp(80)...)}},
		}},
		Egress: open,
	},
	"what is refused is logged": {
		Addresses: both, Log: ruleset.Logging{Drops: true, Accepts: true, Rate: 10, Burst: 100},
		Ingress: isolated(rule("api", ruleset.Accept, peers("10.0.0.3"), tcp(80)...), rule("no", ruleset.Drop, peers("10.0.0.4"), tcp(80)...)),
		Egress:  isolated(),
	},
	"an audited pod": {
		Addresses: both, Audit: true, Log: ruleset.Logging{Drops: true, Rate: 1, Burst: 1},
		Ingress: isolated(rule("api", ruleset.Accept, peers("10.0.0.3"), tcp(80)...)), Egress: open,
	},
	"an adopted pod":          {Addresses: both, Adopted: ruleset.AdoptedNow, Ingress: isolated(rule("api", ruleset.Accept, peers("10.0.0.3"), tcp(80)...)), Egress: open},
	"many ports":              {Addresses: both, Ingress: isolated(manyRules(40)...), Egress: isolated(manyRules(20)...)},
	"many rules for one port": {Addresses: both, Ingress: isolated(crowd(30)...), Egress: isolated(crowd(14)...), Adopted: ruleset.AdoptedTCP},
	"ports up to the last":    {Ingress: isolated(append(manyRules(20), rule("top", ruleset.Accept, ruleset.Everyone, ruleset.Ports{Proto: ruleset.TCP, First: 60000, Last: 65535}))...)},
}

func manyRules(n int) []ruleset.Rule {
	var rules []ruleset.Rule
	for i := range n {
		rules = append(rules, rule(fmt.Sprintf("p%d", i), ruleset.Accept, peers(fmt.Sprintf("10.3.0.%d", i)),
			ruleset.Ports{Proto: ruleset.TCP, First: uint16(1000 + 3*i), Last: uint16(1004 + 3*i)}))
	}
	return rules
}

// crowd is n rules for one port, each with peers of its own and one that all
// share; some have blocks.
func crowd(n int) []ruleset.Rule {
	var rules []ruleset.Rule
	for i := range n {
		from := peers(fmt.Sprintf("10.4.0.%d", i), fmt.Sprintf("fd00:4::%x", i+1), "10.4.1.1")
		if i%10 == 9 {
			from = peers(fmt.Sprintf("10.4.%d.0/24", i))
		}
		rules = append(rules, rule(fmt.Sprintf("c%d", i), ruleset.Accept, from, tcp(80)...))
	}
	return rules
}

// Text and netlink share no code; the kernel is asked what it holds.
func TestApplyMatchesText(t *testing.T) {
	for name, rs := range samples {
		t.Run(name, func(t *testing.T) {
			byText, byNetlink := pod(t), pod(t)
			want := byText.Run(t, "nft -f - <<'EOF'\n"+rs.Text("eth0")+"EOF\nnft list ruleset")
			for _, when := range []string{"first", "again"} {
				if _, _, err := nft.Apply(byNetlink.FD(), "eth0", rs, nil); err != nil {
					t.Fatalf("Apply, %s time: %v", when, err)
				}
				if diff := cmp.Diff(want, byNetlink.Run(t, "nft list ruleset")); diff != "" {
					t.Fatalf("kernel rules after Apply, %s time (-text +netlink):\n%s", when, diff)
				}
			}
		})
	}
}

func TestApplyAgainWritesNothing(t *testing.T) {
	for name, rs := range samples {
		t.Run(name, func(t *testing.T) {
			ns := pod(t)
			now, wrote, err := nft.Apply(ns.FD(), "eth0", rs, nil)
			if err != nil || !wrote {
				t.Fatalf("first Apply: wrote %v, %v", wrote, err)
			}
			for what, last := range map[string]*nft.Known{"known": &now, "read": nil} {
				again, wrote, err := nft.Apply(ns.FD(), "eth0", rs, last)
				if err != nil || wrote {
					t.Errorf("second Apply, rules %s: wrote %v, %v", what, wrote, err)
				}
				if again.Epoch != now.Epoch || again.Generation != now.Generation {
					t.Errorf("second Apply, rules %s: epoch %d generation %d, want %d and %d", what, again.Epoch, again.Generation, now.Epoch, now.Generation)
				}
			}
			if diffs, gen, err := nft.Check(ns.FD(), "eth0", now); err != nil || len(diffs) > 0 || gen != now.Generation {
				t.Errorf("Check: %q, generation %d want %d, %v", diffs, gen, now.Generation, err)
			}
		})
	}
}

// From any rule set to any other, whether the old one is known or must be read,
// the kernel ends up with exactly the new one.
func TestApplyFromAnyToAny(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	ns := pod(t)
	var known *nft.Known
	for i := range 300 {
		rs := randomRuleSet(rng)
		last := known
		if rng.IntN(3) == 0 {
			last = nil
		}
		now, _, err := nft.Apply(ns.FD(), "eth0", rs, last)
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if known != nil && !rs.Covers(known.Rules) && now.Epoch == known.Epoch {
			t.Fatalf("step %d: took something away in epoch %d without moving it", i, now.Epoch)
		}
		if diffs, _, err := nft.Check(ns.FD(), "eth0", now); err != nil || len(diffs) > 0 {
			t.Fatalf("step %d: %q, %v", i, diffs, err)
		}
		known = &now
	}
}

func randomRuleSet(rng *rand.Rand) ruleset.RuleSet {
	chain := func() ruleset.Chain {
		if rng.IntN(4) == 0 {
			return open
		}
		if rng.IntN(3) == 0 {
			return isolated(crowd(10 + rng.IntN(10))[rng.IntN(4):]...)
		}
		var rules []ruleset.Rule
		for i := range rng.IntN(25) {
			var ps []netip.Prefix
			for range rng.IntN(30) {
				bits := []int{32, 32, 32, 24, 16}[rng.IntN(5)]
				p, _ := netip.AddrFrom4([4]byte{10, byte(rng.IntN(3)), byte(rng.IntN(3)), byte(rng.IntN(256))}).Prefix(bits)
				ps = append(ps, p)
			}
			port := uint16(rng.IntN(30))
			r := rule(fmt.Sprintf("p%d", i), ruleset.Accept, ruleset.NewPeers(ps), ruleset.Ports{Proto: ruleset.TCP, First: port, Last: port + uint16(rng.IntN(5))})
			rules = append(rules, r)
		}
		return isolated(rules...)
	}
	return ruleset.RuleSet{Addresses: both[:rng.IntN(3)], Ingress: chain(), Egress: chain(), Adopted: ruleset.Adoption(rng.IntN(3))}
}

func TestEachAttachmentHasItsOwnRules(t *testing.T) {
	ns := pod(t)
	ns.Run(t, "ip link add net1 type veth peer name far1")
	eth0, _, err := nft.Apply(ns.FD(), "eth0", samples["many ports"], nil)
	if err != nil {
		t.Fatal(err)
	}
	net1, _, err := nft.Apply(ns.FD(), "net1", samples["tiers with pass and deny"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if eth0.Epoch == net1.Epoch {
		t.Errorf("both attachments are in epoch %d: each would accept what the other judged", eth0.Epoch)
	}
	if _, _, err := nft.Apply(ns.FD(), "net1", ruleset.RuleSet{}, &net1); err != nil {
		t.Fatal(err)
	}
	if diffs, _, err := nft.Check(ns.FD(), "eth0", eth0); err != nil || len(diffs) > 0 {
		t.Errorf("eth0 after a change to net1: %q, %v", diffs, err)
	}
}

// What others do to the table is seen and put right.
func TestApplyRepairs(t *testing.T) {
	rs := samples["many ports"]
	for _, harm := range []string{
		"nft flush ruleset",
		"nft flush chain inet podwall eth0/ingress",
		"nft insert rule inet podwall eth0/ingress accept",
		"nft add element inet podwall eth0/ingress/policy/shop/p0/0.0/ip '{ 6.6.6.6 }'",
		"nft delete element inet podwall eth0/ingress/policy/shop/p0/0.0/ip '{ 10.3.0.0 }'",
		"nft add chain inet podwall eth0/postrouting '{ policy accept; }'",
		"nft flush chain inet podwall eth0/ingress/policy.0/tcp",
		"nft add set inet podwall eth0/ingress/policy/shop/p0/0.0/ip.b '{ type ipv4_addr; }'",
		"nft add table inet podwall '{ flags dormant; }'",
		"nft add set inet podwall eth0/mine '{ type ipv4_addr; }'",
	} {
		t.Run(harm, func(t *testing.T) {
			ns := pod(t)
			now, _, err := nft.Apply(ns.FD(), "eth0", rs, nil)
			if err != nil {
				t.Fatal(err)
			}
			ns.Run(t, harm)
			if diffs, _, err := nft.Check(ns.FD(), "eth0", now); err != nil || len(diffs) == 0 {
				t.Fatalf("Check found nothing (%v)", err)
			}
			then, wrote, err := nft.Apply(ns.FD(), "eth0", rs, &now)
			if err != nil || !wrote {
				t.Fatalf("Apply: wrote %v, %v", wrote, err)
			}
			if then.Epoch == now.Epoch {
				t.Errorf("the epoch stayed %d: what was let through meanwhile would stay accepted", now.Epoch)
			}
			if diffs, _, err := nft.Check(ns.FD(), "eth0", then); err != nil || len(diffs) > 0 {
				t.Errorf("after the repair: %q, %v", diffs, err)
			}
		})
	}
}

// An address that moves from one set to another is in one of them at each
// instant, also for a packet that is between its looks into the two: the sets
// are replaced, not changed. One that only comes or only goes is an element.
func TestMovedPeersGetNewEditionsOfTheirSets(t *testing.T) {
	ns := pod(t)
	rs := func(first, second ruleset.Peers) ruleset.RuleSet {
		return ruleset.RuleSet{Addresses: both[:1], Egress: open,
			Ingress: isolated(rule("a", ruleset.Accept, first, tcp(80)...), rule("b", ruleset.Accept, second, tcp(80)...))}
	}
	steps := []struct {
		name          string
		first, second ruleset.Peers
		want          string // the sets of a and b
	}{
		{"at first", peers("10.0.0.1"), peers("10.0.0.2"), "a b"},
		{"one comes into each", peers("10.0.0.1", "10.0.0.3"), peers("10.0.0.2", "10.0.0.4"), "a b"},
		{"one goes from each", peers("10.0.0.1"), peers("10.0.0.2"), "a b"},
		{"one moves", peers(), peers("10.0.0.1", "10.0.0.2"), "a.b b.b"},
		{"one set changes both ways", peers(), peers("10.0.0.1", "10.0.0.9"), "a.b b.b"},
		{"one moves back", peers("10.0.0.1"), peers("10.0.0.9"), "a b"},
	}
	var last *nft.Known
	for _, s := range steps {
		last = apply(t, ns, rs(s.first, s.second), last)
		got := ns.Run(t, `nft list sets inet | sed -n 's|.*set eth0/ingress/policy/shop/\([ab]\)/0.0/ip\(.*\) {|\1\2|p' | xargs`)
		if strings.TrimSpace(got) != s.want {
			t.Errorf("%s: sets %q, want %q", s.name, strings.TrimSpace(got), s.want)
		}
		if diffs, _, err := nft.Check(ns.FD(), "eth0", *last); err != nil || len(diffs) > 0 {
			t.Errorf("%s: %q, %v", s.name, diffs, err)
		}
		// Without knowing what is there, the same is found.
		if _, wrote, err := nft.Apply(ns.FD(), "eth0", rs(s.first, s.second), nil); err != nil || wrote {
			t.Errorf("%s: read and applied again: wrote %v, %v", s.name, wrote, err)
		}
	}
}
