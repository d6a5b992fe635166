package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/podwall/podwall/internal/ruleset"
)

// An egress is what pods share that the same policies select and that stand on
// the same node. The cell changes with it, and with what it says of any door.
type egress struct {
	cell
	selecting []*held
	nodes     []netip.Addr // the own node's
	byPolicy  bool         // and are subject to policy

	chain    ruleset.Chain     // without the service tier
	cells    []*cell           // that the chain is worked out from
	open     bool              // nothing is restricted: what follows is not filled
	opensAll bool              // the chain accepts every flow to anywhere
	others   []netip.Addr      // those of every other node
	accepted []bool            // by the slots of doors
	far      map[nodePort]bool // which node ports of other nodes are accepted
	wrong    map[frontend]bool // where the chain alone decides otherwise than the doors do, and what they say
	rules    []ruleset.Rule    // of the service tier
}

// egressChain is the pod's egress. The pod sees a Service's address before the
// node rewrites it, so the tiers that judge addresses are preceded by one that
// knows what is behind the virtual ones.
func (c *compiler) egressChain(t *Target, selecting []*held) ruleset.Chain {
	e := c.egress(t, selecting)
	c.uses(&e.cell)
	chain := e.chain
	if e.open {
		return chain
	}
	own := append(distinct(t.Pod.Addresses), distinct(t.Addresses)...)
	if rules := e.rulesFor(c, own); len(rules) > 0 {
		tier := ruleset.Tier{Name: ruleset.TierService, Rules: rules, Default: ruleset.Pass}
		chain.Tiers = append([]ruleset.Tier{tier}, chain.Tiers...)
	}
	return chain
}

func (c *compiler) egress(t *Target, selecting []*held) *egress {
	selecting = slices.DeleteFunc(slices.Clone(selecting), func(p *held) bool { return !c.policy(p).Egress.Applies })
	nodes := distinct(t.Node)
	key := egressKey(selecting, nodes, t.NodeEgressByPolicy)
	e, ok := c.egresses[key]
	if ok && slices.Equal(e.selecting, selecting) {
		return e
	}
	if ok {
		e.forget()
	}
	e = &egress{selecting: selecting, nodes: nodes, byPolicy: t.NodeEgressByPolicy}
	e.build(c.World)
	if e.open = e.chain.Open(); !e.open {
		e.judge(c.World, c.findDoors())
	}
	c.egresses[key] = e
	return e
}

func egressKey(selecting []*held, nodes []netip.Addr, byPolicy bool) string {
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

// build works out the chain.
func (e *egress) build(w *World) {
	var tiers []ruleset.Tier
	if !e.byPolicy {
		tiers = node(e.nodes)
	}
	c := compiler{World: w, serial: w.walk()}
	e.chain = chain(append(tiers, c.tiers(ruleset.Egress, e.selecting, nil)...))
	e.opensAll = acceptsAll(e.chain.Tiers)
	e.cells = c.cells
}

// settle brings e up to date with the cells and the doors.
func (e *egress) settle(w *World) {
	if e.open {
		return
	}
	d := w.doors
	moved := w.movedSince(e.cells)
	if len(moved)+len(d.new)+len(d.gone) == 0 && !d.moved {
		return
	}
	opensAll := e.opensAll
	if len(moved) > 0 {
		e.build(w)
		e.changed = w.now
	}
	if d.moved || e.opensAll != opensAll || slices.ContainsFunc(moved, e.isNode) {
		e.judge(w, d)
		return
	}
	e.judgeAgain(w, d, moved)
}

// movedSince returns the addresses that the last settling moved in any gathering
// among cells.
func (w *World) movedSince(cells []*cell) []netip.Addr {
	var moved []netip.Addr
	for _, c := range cells {
		if g := w.shifted[c]; g != nil {
			moved = append(moved, g.moved...)
		}
	}
	return moved
}

func (e *egress) isNode(a netip.Addr) bool { return slices.Contains(e.nodes, a) }

// judge works out the rules of the service tier.
func (e *egress) judge(w *World, d *doors) {
	e.changed = w.now
	e.others = slices.DeleteFunc(slices.Clone(d.nodes), e.isNode)
	e.accepted = make([]bool, d.slots)
	for _, list := range d.of {
		for _, one := range list {
			e.accepted[one.slot] = e.acceptsBehind(one, nil)
		}
	}
	e.far = e.nodePorts(d, e.says)
	e.wrong = make(map[frontend]bool)
	for f := range d.at {
		e.correct(d, e.far, e.wrong, f, e.says)
	}
	for p := range d.ports {
		for _, f := range e.ownPorts(p) {
			e.correct(d, e.far, e.wrong, f, e.says)
		}
	}
	e.rules = e.serviceRules(e.wrong, e.far)
}

// judgeAgain does what judge does where doors are new or gone, and where the
// addresses moved are in other lists of peers than they were.
func (e *egress) judgeAgain(w *World, d *doors, moved []netip.Addr) {
	again := slices.Concat(d.gone, d.new) // doors whose frontends are to be looked at
	e.accepted = append(e.accepted, make([]bool, d.slots-len(e.accepted))...)
	for _, one := range d.new {
		e.accepted[one.slot] = e.acceptsBehind(one, nil)
	}
	for _, a := range moved {
		if b := d.behind[a]; b != nil {
			for _, one := range b.doors {
				if now := e.acceptsBehind(one, nil); now != e.accepted[one.slot] {
					e.accepted[one.slot], again = now, append(again, one)
				}
			}
		}
		for _, s := range w.servicesAt[a] {
			again = append(again, d.of[Name{s.Namespace, s.Name}]...)
		}
	}
	if len(again) == 0 {
		return
	}
	far := e.nodePorts(d, e.says)
	if !maps.Equal(far, e.far) {
		e.judge(w, d)
		return
	}
	differs := false
	for _, one := range again {
		for _, f := range e.frontends(one) {
			before, was := e.wrong[f]
			e.correct(d, far, e.wrong, f, e.says)
			now, is := e.wrong[f]
			differs = differs || was != is || before != now || e.shared(d, f, one)
		}
	}
	if differs {
		e.changed, e.rules = w.now, e.serviceRules(e.wrong, far)
	}
}

// shared reports whether pods met other doors than one at f before. What e says
// of one then matters also to those for whom rulesFor opens another.
func (e *egress) shared(d *doors, f frontend, one *door) bool {
	return slices.ContainsFunc(e.doorsAt(d, f), func(other *door) bool { return other != one && !slices.Contains(d.new, other) })
}

// doorsAt are the doors that pods meet at f.
func (e *egress) doorsAt(d *doors, f frontend) []*door {
	if e.isNode(f.addr) {
		return slices.Concat(d.at[f], d.ports[nodePort{f.addr.BitLen(), f.proto, f.port}])
	}
	return d.at[f]
}

// says reports whether d is accepted.
func (e *egress) says(d *door) bool { return e.accepted[d.slot] }

// ownPorts are the frontends on the own node's addresses where p is met.
func (e *egress) ownPorts(p nodePort) []frontend {
	var list []frontend
	for _, a := range e.nodes {
		if p.port != 0 && a.BitLen() == p.bits {
			list = append(list, frontend{a, p.proto, p.port})
		}
	}
	return list
}

// frontends are all where pods on the node meet d.
func (e *egress) frontends(d *door) []frontend {
	return append(d.virtual(), e.ownPorts(d.onNodes())...)
}

// correct notes in wrong whether the chain is wrong about f, given what says is
// said of each door. Where two doors have one frontend, both must be accepted.
func (e *egress) correct(d *doors, far map[nodePort]bool, wrong map[frontend]bool, f frontend, says func(*door) bool) {
	here := e.doorsAt(d, f)
	ok := !slices.ContainsFunc(here, func(one *door) bool { return !says(one) })
	if len(here) == 0 || ok == (e.accepts(f.addr, f.proto, f.port) || e.acceptsFar(far, f)) {
		delete(wrong, f)
	} else {
		wrong[f] = ok
	}
}

// rulesFor returns the rules of the service tier for a pod whose own addresses
// are own: a pod always reaches itself, so it is in no door's way.
func (e *egress) rulesFor(c *compiler, own []netip.Addr) []ruleset.Rule {
	var opened []*door
	for _, a := range own {
		b := c.doors.leadingTo(a)
		c.uses(&b.cell)
		for _, one := range b.doors {
			if !e.says(one) && e.acceptsBehind(one, own) {
				opened = append(opened, one)
			}
		}
	}
	if len(opened) == 0 {
		return e.rules
	}
	says := func(one *door) bool { return e.says(one) || slices.Contains(opened, one) }
	far, wrong := e.nodePorts(c.doors, says), maps.Clone(e.wrong)
	again := opened
	if !maps.Equal(far, e.far) {
		again = slices.Concat(slices.Collect(maps.Values(c.doors.of))...)
	}
	for _, one := range again {
		for _, f := range e.frontends(one) {
			e.correct(c.doors, far, wrong, f, says)
		}
	}
	return e.serviceRules(wrong, far)
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
