package ruleset

import (
	"reflect"
	"slices"
)

// Covers reports whether every flow that old accepts is accepted by rs too, so
// that replacing old by rs takes nothing away. It may say false where that is
// so, never true where it is not.
func (rs RuleSet) Covers(old RuleSet) bool { return rs.CoversBy(old, Peers.Covers) }

// CoversBy is Covers for who has a quicker way to tell whether every address of q
// is in p.
func (rs RuleSet) CoversBy(old RuleSet, wider func(p, q Peers) bool) bool {
	return rs.Adopted >= old.Adopted && rs.Enforced(Ingress).covers(old.Enforced(Ingress), wider) &&
		rs.Enforced(Egress).covers(old.Enforced(Egress), wider)
}

func (c Chain) covers(old Chain, wider func(p, q Peers) bool) bool {
	if c.Open() {
		return true
	}
	if len(c.Tiers) != len(old.Tiers) || (old.Default == Accept && c.Default != Accept) {
		return false
	}
	for i, t := range c.Tiers {
		if !t.covers(old.Tiers[i], wider) {
			return false
		}
	}
	return true
}

// covers compares tier by tier, which is sound only where a flow that old's
// tier passes on meets the same or more behind t. Tiers that can only accept or
// pass on satisfy that in any order of rules; others must be equal.
func (t Tier) covers(old Tier, wider func(p, q Peers) bool) bool {
	if t.Name != old.Name {
		return false
	}
	if !t.acceptsOnly() || !old.acceptsOnly() {
		return t.Default == old.Default && reflect.DeepEqual(t.Rules, old.Rules)
	}
	if t.Default != old.Default && t.Default != Accept {
		return false
	}
	if t.Default == Accept {
		return true
	}
	for i, r := range old.Rules {
		same := i < len(t.Rules) && t.Rules[i].covers(r, wider) // as nearly always
		if !same && !slices.ContainsFunc(t.Rules, func(n Rule) bool { return n.covers(r, wider) }) {
			return false
		}
	}
	return true
}

func (t Tier) acceptsOnly() bool {
	return !slices.ContainsFunc(t.Rules, func(r Rule) bool { return r.Action != Accept })
}

// covers reports whether every flow that meets old meets r.
func (r Rule) covers(old Rule, wider func(p, q Peers) bool) bool {
	for _, m := range old.Matches {
		for _, p := range m.Ports {
			if !p.none() && !slices.ContainsFunc(r.Matches, func(n Match) bool { return n.covers(m.Peers, p, wider) }) {
				return false
			}
		}
	}
	return true
}

func (m Match) covers(peers Peers, ports Ports, wider func(p, q Peers) bool) bool {
	for _, p := range m.Ports {
		if p.covers(ports) {
			return wider(m.Peers, peers)
		}
	}
	return false
}

// covers reports whether every flow in q is in p.
func (p Ports) covers(q Ports) bool {
	switch {
	case p.Proto == AnyProto:
		return true
	case p.Proto != q.Proto:
		return false
	}
	return p.whole() || (p.First <= q.First && q.Last <= p.Last)
}
