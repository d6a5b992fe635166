package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/ruleset"
)

// serviceRules returns the rules of the service tier: one for each protocol, port
// and action, naming the frontends about which all that follows would be wrong,
// and those about other nodes around them: what either drops is dropped.
func (e *egress) serviceRules(wrong map[frontend]bool, far map[nodePort]bool) []ruleset.Rule {
	type group struct {
		proto  ruleset.Proto
		port   uint16
		action ruleset.Action
	}
	groups := make(map[group][]netip.Addr)
	for f, ok := range wrong {
		g := group{proto: f.proto, port: f.port, action: ruleset.Drop}
		if ok {
			g.action = ruleset.Accept
		}
		groups[g] = append(groups[g], f.addr)
	}
	rules := make([]ruleset.Rule, 0, len(groups))
	for g, addrs := range groups {
		rules = append(rules, serviceRule(g.proto, g.port, g.action, addrs))
	}
	slices.SortFunc(rules, func(a, b ruleset.Rule) int {
		if c := comparePorts(a.Matches[0].Ports[0], b.Matches[0].Ports[0]); c != 0 {
			return c
		}
		return a.Index - b.Index
	})
	return slices.Concat(e.nodePortRule(far, ruleset.Drop), rules, e.nodePortRule(far, ruleset.Accept))
}

// nodePorts says which node ports of other nodes are accepted, where the same
// doors stand as on the own one.
func (e *egress) nodePorts(d *doors, says func(*door) bool) map[nodePort]bool {
	verdicts := make(map[nodePort]bool)
	for p, list := range d.ports {
		if slices.ContainsFunc(e.others, func(a netip.Addr) bool { return a.BitLen() == p.bits }) {
			verdicts[p] = !slices.ContainsFunc(list, func(one *door) bool { return !says(one) })
		}
	}
	return verdicts
}

// acceptsFar reports whether f is at another node, at a node port that verdicts
// accept.
func (e *egress) acceptsFar(verdicts map[nodePort]bool, f frontend) bool {
	_, other := slices.BinarySearchFunc(e.others, f.addr, netip.Addr.Compare)
	return other && verdicts[nodePort{f.addr.BitLen(), f.proto, f.port}]
}

// nodePortRule returns the rule for the node ports of other nodes that get
// action, if any. It names them also where the chain alone would be right: there
// are too many nodes to ask about each.
func (e *egress) nodePortRule(verdicts map[nodePort]bool, action ruleset.Action) []ruleset.Rule {
	ports := make(map[int][]ruleset.Ports) // by family
	for p, ok := range verdicts {
		if ok == (action == ruleset.Accept) {
			ports[p.bits] = append(ports[p.bits], ruleset.Ports{Proto: p.proto, First: p.port, Last: p.port})
		}
	}
	if len(ports) == 0 {
		return nil
	}
	r := ruleset.Rule{Origin: ruleset.Ref{Kind: "Service", Name: "node-ports"}, Action: action}
	if action == ruleset.Drop {
		r.Index = 1
	}
	for _, bits := range slices.Sorted(maps.Keys(ports)) {
		slices.SortFunc(ports[bits], comparePorts)
		nodes := slices.DeleteFunc(slices.Clone(e.others), func(a netip.Addr) bool { return a.BitLen() != bits })
		r.Matches = append(r.Matches, ruleset.Match{Peers: peersAt(nodes), Ports: ports[bits]})
	}
	return []ruleset.Rule{r}
}

func serviceRule(proto ruleset.Proto, port uint16, action ruleset.Action, vips []netip.Addr) ruleset.Rule {
	r := ruleset.Rule{
		Origin: ruleset.Ref{Kind: "Service", Name: fmt.Sprintf("%s-%d", strings.ToLower(proto.String()), port)},
		Action: action,
		Matches: []ruleset.Match{{
			Peers: peersAt(vips),
			Ports: []ruleset.Ports{{Proto: proto, First: port, Last: port}},
		}},
	}
	if action == ruleset.Drop {
		r.Index = 1
	}
	return r
}
