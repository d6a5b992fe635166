package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/podwall/podwall/internal/ruleset"
)

// An egress is what two pods share that the same policies select and that stand
// on the same node.
type egress struct {
	chain    ruleset.Chain // without the service tier
	services map[frontend]*frontendState
	blockers map[netip.Addr]bool // endpoints that are in some frontend's way
	rules    []ruleset.Rule      // of the service tier, for a pod that is no blocker itself
}

// A frontend is where pods meet one port of a Service.
type frontend struct {
	addr  netip.Addr
	proto ruleset.Proto
	port  uint16
}

// A frontendState is what decides about a frontend.
type frontendState struct {
	plain    bool         // the chain accepts the virtual address, taken as any other
	closed   bool         // nothing is behind it, and the chain does not accept everything
	blockers []netip.Addr // endpoints that the chain does not accept
}

// accepts reports whether a pod whose own addresses are own may use the
// frontend. A pod always reaches itself.
func (f *frontendState) accepts(own []netip.Addr) bool {
	return !f.closed && !slices.ContainsFunc(f.blockers, func(a netip.Addr) bool { return !slices.Contains(own, a) })
}

// egressChain is the pod's egress. The pod sees a Service's address before the
// node rewrites it, so the tiers that judge addresses are preceded by one that
// knows what is behind the virtual ones.
func (w *World) egressChain(t Target, selecting []*Policy) ruleset.Chain {
	e := w.egressOf(t, selecting)
	rules := e.rules
	own := append(distinct(t.Pod.Addresses), distinct(t.Addresses)...)
	if slices.ContainsFunc(own, func(a netip.Addr) bool { return e.blockers[a] }) {
		rules = e.serviceRules(own)
	}
	c := e.chain
	if len(rules) > 0 {
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
	e := &egress{chain: chain(append(tiers, w.tiers(ruleset.Egress, selecting, &t.Pod)...))}
	if !e.chain.Open() {
		e.judge(w, nodes)
		e.rules = e.serviceRules(nil)
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

// judge asks the chain about every frontend and what is behind it.
func (e *egress) judge(w *World, nodes []netip.Addr) {
	e.services = make(map[frontend]*frontendState)
	e.blockers = make(map[netip.Addr]bool)
	opensAll := acceptsAll(e.chain.Tiers)
	for _, s := range w.services {
		for _, p := range s.Ports {
			e.port(w, s, p, distinct(s.Addresses), p.Port, opensAll)
			if p.NodePort != 0 {
				e.port(w, s, p, nodes, p.NodePort, opensAll)
			}
		}
	}
}

// port judges port p of s where it is met: at number of each of the virtual
// addresses vips. Of two Services at one frontend, both must be acceptable.
func (e *egress) port(w *World, s *Service, p ServicePort, vips []netip.Addr, number uint16, opensAll bool) {
	behind := make(map[int]frontendState) // by family
	for _, vip := range vips {
		b, ok := behind[vip.BitLen()]
		if !ok {
			b = e.behind(w.Backends(*s, p, vip), p.Proto, opensAll)
			behind[vip.BitLen()] = b
		}
		at := frontend{vip, p.Proto, number}
		f := e.services[at]
		if f == nil {
			f = &frontendState{plain: e.accepts(vip, p.Proto, number)}
			e.services[at] = f
		}
		f.closed = f.closed || b.closed
		f.blockers = append(f.blockers, b.blockers...)
	}
}

// behind judges the backends of one frontend.
func (e *egress) behind(backends []Backend, proto ruleset.Proto, opensAll bool) frontendState {
	f := frontendState{closed: len(backends) == 0 && !opensAll}
	for _, b := range live(backends) {
		if a := b.Addr.Addr(); !e.accepts(a, proto, b.Addr.Port()) {
			f.blockers = append(f.blockers, a)
			e.blockers[a] = true
		}
	}
	return f
}

func (e *egress) accepts(a netip.Addr, proto ruleset.Proto, port uint16) bool {
	return e.chain.Decide(a, proto, port).Action == ruleset.Accept
}

// live returns the ready ones of list, or all of it if none is ready.
func live(list []Backend) []Backend {
	ready := slices.DeleteFunc(slices.Clone(list), func(b Backend) bool { return !b.Ready })
	if len(ready) == 0 {
		return list
	}
	return ready
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

// serviceRules returns the rules of the service tier for a pod at the addresses
// own: one for each protocol, port and action, naming the frontends about which
// the chain would be wrong.
func (e *egress) serviceRules(own []netip.Addr) []ruleset.Rule {
	type group struct {
		proto  ruleset.Proto
		port   uint16
		action ruleset.Action
	}
	groups := make(map[group][]netip.Addr)
	for at, f := range e.services {
		if ok := f.accepts(own); ok != f.plain {
			g := group{proto: at.proto, port: at.port}
			if ok {
				g.action = ruleset.Accept
			}
			groups[g] = append(groups[g], at.addr)
		}
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
	return rules
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
