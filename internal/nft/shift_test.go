package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

// A crowd is a rule set whose peers come and go: many rules for one port, which
// become maps, rules with blocks, one that denies, of both families.
type crowd struct {
	*rand.Rand
	lists [16][]netip.Prefix
}

func (c *crowd) rules() ruleset.RuleSet {
	rs := ruleset.RuleSet{
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		Egress:    ruleset.Chain{Default: ruleset.Accept},
		Ingress: ruleset.Chain{Default: ruleset.Accept, Tiers: []ruleset.Tier{
			{Name: ruleset.TierAdmin, Default: ruleset.Pass},
			{Name: ruleset.TierPolicy},
		}},
	}
	for i, list := range c.lists {
		r := ruleset.Rule{Origin: ruleset.Ref{Namespace: "shop", Name: fmt.Sprint("p", i)}, Action: ruleset.Accept,
			Matches: []ruleset.Match{{Peers: ruleset.NewPeers(list), Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: 80, Last: 80}}}}}
		t := &rs.Ingress.Tiers[1]
		if i == 0 {
			t, r.Action = &rs.Ingress.Tiers[0], ruleset.Drop
		}
		t.Rules = append(t.Rules, r)
	}
	return rs
}

// change has some peers of a rule or two come or go.
func (c *crowd) change() {
	for range 1 + c.IntN(2) {
		i := c.IntN(len(c.lists))
		list := slices.Clone(c.lists[i])
		for range 1 + c.IntN(2) {
			p := c.peer(i)
			if at := slices.Index(list, p); at >= 0 {
				list = slices.Delete(list, at, at+1)
			} else {
				list = append(list, p)
			}
		}
		c.lists[i] = list
	}
}

func (c *crowd) peer(rule int) netip.Prefix {
	switch c.IntN(3) {
	case 0:
		return netip.MustParsePrefix(fmt.Sprintf("fd00::%x/128", c.IntN(60)))
	case 1:
		if rule >= 14 { // the last of these blocks has no end
			return netip.MustParsePrefix(fmt.Sprintf("%d.0.0.0/8", 250+c.IntN(6)))
		}
	}
	return netip.MustParsePrefix(fmt.Sprintf("10.1.0.%d/32", c.IntN(60)))
}

// A move leaves in the kernel what the whole way would have left there, moves the
// epoch when that would have, and is most of what happens.
func TestMoveLeavesWhatApplyLeaves(t *testing.T) {
	seed := rand.Uint64()
	c := &crowd{Rand: rand.New(rand.NewPCG(seed, 0))}
	ns := netnstest.New(t)
	ns.Run(t, "ip link add eth0 type veth peer name far0")
	index, err := Index(ns.FD(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	known, _, err := Apply(ns.FD(), "eth0", c.rules(), nil)
	if err != nil {
		t.Fatal(err)
	}
	const steps = 400
	moved, renewed := 0, 0
	for i := range steps {
		c.change()
		rs, last := c.rules(), known
		last.Index, last.Round = index, &Round{}
		now, done := last.Round.shift(ns.FD(), device{index, "eth0"}, &rs, &last)
		if done {
			moved++
		} else if now, _, err = Apply(ns.FD(), "eth0", rs, &last); err != nil {
			t.Fatalf("seed %d, step %d: %v", seed, i, err)
		}
		last.Round.End()
		if kept := now.Epoch == last.Epoch; kept && !rs.Covers(last.Rules) {
			t.Fatalf("seed %d, step %d: the epoch stays (move: %v) though something was taken away", seed, i, done)
		}
		if len(now.second[ruleset.Inet]) > 0 {
			renewed++
		}
		diffs, generation, err := Check(ns.FD(), "eth0", now)
		if err != nil || len(diffs) > 0 || generation != now.Generation {
			t.Fatalf("seed %d, step %d (move: %v): generation %d, want %d; %v %q", seed, i, done, generation, now.Generation, err, diffs)
		}
		known = now
	}
	if moved < steps/4 || moved > steps*9/10 || renewed == 0 {
		t.Errorf("seed %d: %d of %d changes were moves, %d with a set in its second edition; want many, not all, and some", seed, moved, steps, renewed)
	}
}

// A move whose namespace is not as it was known to be changes nothing.
func TestMoveNeedsTheGeneration(t *testing.T) {
	c := &crowd{Rand: rand.New(rand.NewPCG(1, 0))}
	ns := netnstest.New(t)
	ns.Run(t, "ip link add eth0 type veth peer name far0")
	index, err := Index(ns.FD(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var known Known
	for _, list := range []string{"10.0.0.3/32", "10.0.0.4/32"} { // the second time it knows the editions
		c.lists[1] = append(slices.Clone(c.lists[1]), netip.MustParsePrefix(list))
		if known, _, err = Apply(ns.FD(), "eth0", c.rules(), &known); err != nil {
			t.Fatal(err)
		}
	}
	c.lists[1] = append(slices.Clone(c.lists[1]), netip.MustParsePrefix("10.0.0.5/32"))
	rs, round := c.rules(), &Round{}
	defer round.End()
	ns.Run(t, "nft add table inet other")
	before := ns.Run(t, "nft list ruleset")
	if _, done := round.shift(ns.FD(), device{index, "eth0"}, &rs, &known); done {
		t.Error("a move went through after somebody else's transaction")
	}
	if after := ns.Run(t, "nft list ruleset"); after != before {
		t.Errorf("a move that was refused left\n%s\nwant\n%s", after, before)
	}
	known.Generation++
	if _, done := round.shift(ns.FD(), device{index, "eth0"}, &rs, &known); !done {
		t.Error("a move that names the generation was refused")
	}
}
