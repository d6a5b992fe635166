package ruleset

import "net/netip"

// A Decision is what a chain does with a flow, and why.
type Decision struct {
	Action Action // Accept or Drop
	Tier   string // the tier that decided; empty if none did and the chain's Default holds
	Rule   *Rule  // the rule that decided; nil if it was a Default
	// Selected names, for a drop by a tier's Default, the policies that isolate.
	Selected []Ref
}

// Decide returns what c does with a flow between the pod and peer. Proto and
// port are the flow's: the port is the one the flow was opened to, at whichever
// end that is. It is the meaning that a lowered Table must have in the kernel.
func (c Chain) Decide(peer netip.Addr, proto Proto, port uint16) Decision {
	for i := range c.Tiers {
		t := &c.Tiers[i]
		r := t.find(peer, proto, port)
		d := Decision{Action: t.Default, Tier: t.Name, Rule: r}
		if r != nil {
			d.Action = r.Action
		} else {
			d.Selected = t.Selected
		}
		if d.Action != Pass {
			return d
		}
	}
	if c.Default == Accept {
		return Decision{Action: Accept}
	}
	return Decision{}
}

// find returns the first rule that the flow meets, or nil.
func (t *Tier) find(peer netip.Addr, proto Proto, port uint16) *Rule {
	for i := range t.Rules {
		for _, m := range t.Rules[i].Matches {
			if m.contains(peer, proto, port) {
				return &t.Rules[i]
			}
		}
	}
	return nil
}

// contains reports whether the flow meets m. Ports are few and peers many, so
// ports are asked first.
func (m Match) contains(peer netip.Addr, proto Proto, port uint16) bool {
	for _, p := range m.Ports {
		if p.Contains(proto, port) {
			return m.Peers.Contains(peer)
		}
	}
	return false
}
