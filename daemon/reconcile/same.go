package reconcile

import (
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// A comparison compares rule sets of one version with those of another. Both
// share their long lists of peers among many pods; each pair of lists is compared
// once. The zero comparison has compared nothing; it is not for several
// goroutines.
type comparison struct {
	lists  map[pair]bool
	chains map[gist][][]ruleset.Tier // that join has met
}

type pair struct {
	a, b *netip.Prefix // the first elements of two lists of one length
	n    int
}

// same is reflect.DeepEqual(a, b), without its price: what is shared in memory is
// not looked into.
func (c *comparison) same(a, b ruleset.RuleSet) bool {
	return c.sameChain(a.Ingress, b.Ingress) && c.sameChain(a.Egress, b.Egress) && slices.Equal(a.Addresses, b.Addresses) &&
		a.RawSockets == b.RawSockets && a.Owned == b.Owned && a.Adopted == b.Adopted && a.Log == b.Log && a.Audit == b.Audit
}

func (c *comparison) sameChain(a, b ruleset.Chain) bool {
	return a.Default == b.Default && alike(a.Tiers, b.Tiers, c.sameTier)
}

func (c *comparison) sameTier(a, b ruleset.Tier) bool {
	return a.Name == b.Name && a.Default == b.Default && slices.Equal(a.Selected, b.Selected) && alike(a.Rules, b.Rules, c.sameRule)
}

func (c *comparison) sameRule(a, b ruleset.Rule) bool {
	return a.Origin == b.Origin && a.Index == b.Index && a.Action == b.Action && alike(a.Matches, b.Matches, c.sameMatch)
}

func (c *comparison) sameMatch(a, b ruleset.Match) bool {
	return a.Peers.Any == b.Peers.Any && c.equal(a.Peers.Prefixes, b.Peers.Prefixes) && slices.Equal(a.Ports, b.Ports)
}

// alike is slices.EqualFunc for lists that may be one.
func alike[T any](as, bs []T, same func(a, b T) bool) bool {
	if len(as) > 0 && len(as) == len(bs) && &as[0] == &bs[0] {
		return true
	}
	return slices.EqualFunc(as, bs, same)
}

func (c *comparison) equal(as, bs []netip.Prefix) bool {
	if len(as) != len(bs) || len(as) == 0 {
		return len(as) == len(bs)
	}
	p := pair{&as[0], &bs[0], len(as)}
	if p.a == p.b {
		return true
	}
	same, known := c.lists[p]
	if !known {
		same = slices.Equal(as, bs)
		if c.lists == nil {
			c.lists = map[pair]bool{}
		}
		c.lists[p] = same
	}
	return same
}

// A gist is what lists of tiers are looked for by.
type gist struct {
	tiers, rules int
	first        ruleset.Ref // of a policy
}

func gistOf(tiers []ruleset.Tier) gist {
	g := gist{tiers: len(tiers)}
	for _, t := range tiers {
		if g.rules += len(t.Rules); g.first == (ruleset.Ref{}) && len(t.Selected) > 0 {
			g.first = t.Selected[0]
		}
	}
	return g
}

// join returns rs with the tiers of those joined before it where they are equal:
// pods under the same policies have the same then, in memory too.
func (c *comparison) join(rs ruleset.RuleSet) ruleset.RuleSet {
	rs.Ingress.Tiers, rs.Egress.Tiers = c.joined(rs.Ingress.Tiers), c.joined(rs.Egress.Tiers)
	return rs
}

func (c *comparison) joined(tiers []ruleset.Tier) []ruleset.Tier {
	if len(tiers) == 0 {
		return tiers
	}
	g := gistOf(tiers)
	for _, other := range c.chains[g] {
		if alike(tiers, other, c.sameTier) {
			return other
		}
	}
	if c.chains == nil {
		c.chains = map[gist][][]ruleset.Tier{}
	}
	c.chains[g] = append(c.chains[g], tiers)
	return tiers
}
