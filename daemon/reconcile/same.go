package reconcile

import (
	"net/netip"
	"reflect"
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

// same is reflect.DeepEqual(a, b), without its price for lists: it follows no
// slices that are the same, so a's are replaced by b's where they are equal.
func (c *comparison) same(a, b ruleset.RuleSet) bool {
	a.Ingress.Tiers = c.share(a.Ingress.Tiers, b.Ingress.Tiers)
	a.Egress.Tiers = c.share(a.Egress.Tiers, b.Egress.Tiers)
	return reflect.DeepEqual(a, b)
}

// share returns a copy of as with the lists of bs where those are equal.
func (c *comparison) share(as, bs []ruleset.Tier) []ruleset.Tier {
	if len(as) != len(bs) || len(as) == 0 || &as[0] == &bs[0] {
		return as
	}
	as = slices.Clone(as)
	for i := range as {
		if len(as[i].Rules) != len(bs[i].Rules) {
			continue
		}
		as[i].Rules = slices.Clone(as[i].Rules)
		for j := range as[i].Rules {
			r, s := &as[i].Rules[j], &bs[i].Rules[j]
			if len(r.Matches) != len(s.Matches) {
				continue
			}
			r.Matches = slices.Clone(r.Matches)
			for m := range r.Matches {
				if p, q := &r.Matches[m].Peers, s.Matches[m].Peers; c.equal(p.Prefixes, q.Prefixes) {
					p.Prefixes = q.Prefixes
				}
			}
		}
	}
	return as
}

func (c *comparison) equal(as, bs []netip.Prefix) bool {
	if len(as) != len(bs) || len(as) == 0 {
		return false
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
		if reflect.DeepEqual(c.share(tiers, other), other) {
			return other
		}
	}
	if c.chains == nil {
		c.chains = map[gist][][]ruleset.Tier{}
	}
	c.chains[g] = append(c.chains[g], tiers)
	return tiers
}
