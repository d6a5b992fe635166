package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/podwall/podwall/internal/ruleset"
)

// A door is one port of a Service in one address family: where pods meet it, and
// where it leads.
type door struct {
	proto          ruleset.Proto
	vips           []netip.Addr
	port, nodePort uint16
	bits           int              // length of an address of the family
	behind         []netip.AddrPort // endpoints that count
}

// A frontend is one place where pods meet a door.
type frontend struct {
	addr  netip.Addr
	proto ruleset.Proto
	port  uint16
}

// findDoors lists the doors of all Services, once.
func (w *World) findDoors() {
	if w.opened {
		return
	}
	w.opened, w.doorsTo = true, make(map[netip.Addr][]int)
	for _, n := range w.nodes {
		w.nodeAddrs = append(w.nodeAddrs, n.Addresses...)
	}
	w.nodeAddrs = distinct(w.nodeAddrs)
	for _, s := range w.services {
		vips := distinct(s.Addresses)
		for _, p := range s.Ports {
			w.addDoor(s, p, vips, netip.IPv4Unspecified())
			w.addDoor(s, p, vips, netip.IPv6Unspecified())
		}
	}
}

// addDoor adds the door of port p of s in the family of the address like.
func (w *World) addDoor(s *Service, p ServicePort, vips []netip.Addr, like netip.Addr) {
	d := door{proto: p.Proto, port: p.Port, nodePort: p.NodePort, bits: like.BitLen()}
	for _, a := range vips {
		if a.BitLen() == d.bits {
			d.vips = append(d.vips, a)
		}
	}
	if len(d.vips) == 0 && d.nodePort == 0 {
		return
	}
	d.behind = live(w.Backends(*s, p, like))
	for _, b := range d.behind {
		w.doorsTo[b.Addr()] = append(w.doorsTo[b.Addr()], len(w.doors))
	}
	w.doors = append(w.doors, d)
}

// live returns the ready ones of list, or all of it if none is ready.
func live(list []Backend) []netip.AddrPort {
	var ready, all []netip.AddrPort
	for _, b := range list {
		all = append(all, b.Addr)
		if b.Ready {
			ready = append(ready, b.Addr)
		}
	}
	if len(ready) == 0 {
		return all
	}
	return ready
}

// frontends calls visit for every place where pods on a node with addresses
// nodes meet d.
func (d *door) frontends(nodes []netip.Addr, visit func(frontend)) {
	for _, a := range d.vips {
		visit(frontend{a, d.proto, d.port})
	}
	for _, a := range nodes {
		if d.nodePort != 0 && a.BitLen() == d.bits {
			visit(frontend{a, d.proto, d.nodePort})
		}
	}
}

// An egress is what two pods share that the same policies select and that stand
// on the same node.
type egress struct {
	chain    ruleset.Chain  // without the service tier
	nodes    []netip.Addr   // the own node's
	others   []netip.Addr   // those of every other node
	opensAll bool           // the chain accepts every flow to anywhere
	accepted []bool         // by door
	rules    []ruleset.Rule // of the service tier
}

// egressChain is the pod's egress. The pod sees a Service's address before the
// node rewrites it, so the tiers that judge addresses are preceded by one that
// knows what is behind the virtual ones.
func (w *World) egressChain(t Target, selecting []*Policy) ruleset.Chain {
	e := w.egressOf(t, selecting)
	c := e.chain
	if rules := e.rulesFor(w, append(distinct(t.Pod.Addresses), distinct(t.Addresses)...)); len(rules) > 0 {
		tier := ruleset.Tier{Name: ruleset.TierService, Rules: rules, Default: ruleset.Pass}
		c.Tiers = append([]ruleset.Tier{tier}, c.Tiers...)
	}
	return c
}

func (w *World) egressOf(t Target, selecting []*Policy) *egress {
	nodes := distinct(t.Node)
	key := egressKey(selecting, nodes, t.NodeEgressByPolicy)
	if e, ok := w.egress[key]; ok {
		return e
	}
	var tiers []ruleset.Tier
	if !t.NodeEgressByPolicy {
		tiers = node(nodes)
	}
	e := &egress{nodes: nodes, chain: chain(append(tiers, w.tiers(ruleset.Egress, selecting, &t.Pod)...))}
	if !e.chain.Open() {
		w.findDoors()
		e.others = slices.DeleteFunc(slices.Clone(w.nodeAddrs), func(a netip.Addr) bool { return slices.Contains(nodes, a) })
		e.opensAll = acceptsAll(e.chain.Tiers)
		e.accepted = make([]bool, len(w.doors))
		for i := range w.doors {
			e.accepted[i] = e.acceptsBehind(&w.doors[i], nil)
		}
		e.rules = e.serviceRules(w.doors, e.accepted)
	}
	w.egress[key] = e
	return e
}

func egressKey(selecting []*Policy, nodes []netip.Addr, byPolicy bool) string {
	b := strconv.AppendBool(nil, byPolicy)
	for _, p := range selecting {
		b = strconv.AppendQuote(b, p.Ref.Kind)
		b = strconv.AppendQuote(b, p.Ref.Namespace)
		b = strconv.AppendQuote(b, p.Ref.Name)
	}
	for _, a := range nodes {
		b = a.AppendTo(append(b, ' '))
	}
	return string(b)
}

// rulesFor returns the rules of the service tier for a pod whose own addresses
// are own: a pod always reaches itself, so it is in no door's way.
func (e *egress) rulesFor(w *World, own []netip.Addr) []ruleset.Rule {
	var accepted []bool
	for _, a := range own {
		for _, i := range w.doorsTo[a] {
			if e.accepted == nil || e.accepted[i] || !e.acceptsBehind(&w.doors[i], own) {
				continue
			}
			if accepted == nil {
				accepted = slices.Clone(e.accepted)
			}
			accepted[i] = true
		}
	}
	if accepted == nil {
		return e.rules
	}
	return e.serviceRules(w.doors, accepted)
}

// acceptsBehind reports whether e accepts everything behind d that is not one of
// own. Behind a door without endpoints anything may come to be.
func (e *egress) acceptsBehind(d *door, own []netip.Addr) bool {
	for _, b := range d.behind {
		if !slices.Contains(own, b.Addr()) && !e.accepts(b.Addr(), d.proto, b.Port()) {
			return false
		}
	}
	return len(d.behind) > 0 || e.opensAll
}

func (e *egress) accepts(a netip.Addr, proto ruleset.Proto, port uint16) bool {
	return e.chain.Decide(a, proto, port).Action == ruleset.Accept
}

// acceptsAll reports whether tiers accept every flow to anywhere by a rule that
// says so, whatever addresses may come to exist.
func acceptsAll(tiers []ruleset.Tier) bool {
	for i, t := range tiers {
		passes := false
		for _, r := range t.Rules {
			switch {
			case len(r.Matches) == 0:
			case r.Action == ruleset.Drop:
				return false
			case r.Action == ruleset.Pass:
				passes = true
			case slices.ContainsFunc(r.Matches, everything):
				return !passes || acceptsAll(tiers[i+1:])
			}
		}
		if t.Default != ruleset.Pass {
			return false
		}
	}
	return false
}

func everything(m ruleset.Match) bool {
	return m.Peers.Any && slices.Contains(m.Ports, ruleset.AnyPort)
}

// serviceRules returns the rules of the service tier, given which doors are
// accepted: one for each protocol, port and action, naming the frontends about
// which all that follows would be wrong, and those about other nodes around them:
// what either drops is dropped.
func (e *egress) serviceRules(doors []door, accepted []bool) []ruleset.Rule {
	type group struct {
		proto  ruleset.Proto
		port   uint16
		action ruleset.Action
	}
	groups := make(map[group][]netip.Addr)
	far := e.nodePorts(doors, accepted)
	for f, ok := range e.verdicts(doors, accepted) {
		if ok == (e.accepts(f.addr, f.proto, f.port) || e.acceptsFar(far, f)) {
			continue
		}
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
// doors stand as on the own one. The first address of a family means all.
func (e *egress) nodePorts(doors []door, accepted []bool) map[frontend]bool {
	verdicts := make(map[frontend]bool)
	for i, d := range doors {
		first := e.firstOther(d.bits)
		if d.nodePort == 0 || !first.IsValid() {
			continue
		}
		f := frontend{first, d.proto, d.nodePort}
		before, met := verdicts[f]
		verdicts[f] = accepted[i] && (before || !met)
	}
	return verdicts
}

// firstOther is the first address of bits bits that another node has, or none.
func (e *egress) firstOther(bits int) netip.Addr {
	i := slices.IndexFunc(e.others, func(a netip.Addr) bool { return a.BitLen() == bits })
	if i < 0 {
		return netip.Addr{}
	}
	return e.others[i]
}

// acceptsFar reports whether f is at another node, at a node port that verdicts
// accept.
func (e *egress) acceptsFar(verdicts map[frontend]bool, f frontend) bool {
	_, other := slices.BinarySearchFunc(e.others, f.addr, netip.Addr.Compare)
	return other && verdicts[frontend{e.firstOther(f.addr.BitLen()), f.proto, f.port}]
}

// nodePortRule returns the rule for the node ports of other nodes that get
// action, if any. It names them also where the chain alone would be right: there
// are too many nodes to ask about each.
func (e *egress) nodePortRule(verdicts map[frontend]bool, action ruleset.Action) []ruleset.Rule {
	ports := make(map[int][]ruleset.Ports) // by family
	for f, ok := range verdicts {
		if ok == (action == ruleset.Accept) {
			ports[f.addr.BitLen()] = append(ports[f.addr.BitLen()], ruleset.Ports{Proto: f.proto, First: f.port, Last: f.port})
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

// verdicts says which frontends are accepted. Where two doors have one frontend,
// both must be.
func (e *egress) verdicts(doors []door, accepted []bool) map[frontend]bool {
	verdicts := make(map[frontend]bool)
	for i := range doors {
		doors[i].frontends(e.nodes, func(f frontend) {
			before, met := verdicts[f]
			verdicts[f] = accepted[i] && (before || !met)
		})
	}
	return verdicts
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
