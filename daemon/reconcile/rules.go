package reconcile

import (
	"cmp"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// sample is how many peers of a rule an inspection shows.
const sample = 8

// rulesOf returns the rules of both directions with their counters, and the
// counters of what no rule accepted.
func rulesOf(iface string, rs ruleset.RuleSet, counts map[string]nft.Count) ([]api.RuleView, []api.DropView) {
	rules, drops := []api.RuleView{}, []api.DropView{}
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		for _, t := range rs.Chain(d).Tiers {
			for _, r := range t.Rules {
				v := ruleView(d, t.Name, r)
				n := counts[ruleset.CounterOf(iface, d, t.Name, r)]
				v.Packets, v.Bytes = n.Packets, n.Bytes
				rules = append(rules, v)
			}
		}
		if n, ok := counts[ruleset.DropCounter(iface, d)]; ok {
			drops = append(drops, api.DropView{Direction: d.String(), Packets: n.Packets, Bytes: n.Bytes})
		}
	}
	for what, names := range map[string][]string{
		"untracked": {ruleset.UntrackedCounter(iface)},
		"forged":    {ruleset.ForgedCounter(iface), ruleset.GuardCounter(iface)},
		"audited":   {ruleset.AuditCounter(iface, ruleset.Ingress), ruleset.AuditCounter(iface, ruleset.Egress)},
	} {
		if what == "audited" && !rs.Audit || what == "untracked" && rs.Enforced(ruleset.Ingress).Open() && rs.Enforced(ruleset.Egress).Open() {
			continue // there nothing is, or all of that passes
		}
		v := api.DropView{Direction: what}
		for _, name := range names {
			v.Packets, v.Bytes = v.Packets+counts[name].Packets, v.Bytes+counts[name].Bytes
		}
		drops = append(drops, v)
	}
	slices.SortFunc(drops, func(a, b api.DropView) int { return cmp.Compare(a.Direction, b.Direction) })
	return rules, drops
}

func ruleView(d ruleset.Direction, tier string, r ruleset.Rule) api.RuleView {
	v := api.RuleView{Direction: d, Verdict: r.Action, Policy: r.Origin.String(), Kind: r.Origin.Kind, Tier: tier, Index: r.Index,
		Ports: []ruleset.Ports{}}
	for _, m := range r.Matches {
		v.Anyone = v.Anyone || m.Peers.Any
		v.Peers += len(m.Peers.Prefixes)
		v.Sample = append(v.Sample, m.Peers.Prefixes[:min(len(m.Peers.Prefixes), sample)]...)
		for _, p := range m.Ports {
			if !slices.Contains(v.Ports, p) {
				v.Ports = append(v.Ports, p)
			}
		}
	}
	v.Sample = v.Sample[:min(len(v.Sample), sample)]
	return v
}
