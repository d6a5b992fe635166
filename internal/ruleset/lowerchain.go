package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A walk builds the blocks of one side.
type walk struct {
	*lowerer
	side  side
	block Block          // being filled
	ports []Block        // what it dispatches to, to stand behind it
	rules map[string]int // how often a rule of this name was met
}

// chain adds the blocks that judge s. All tiers stand in one block, in order,
// but those behind a tier with Pass rules: these get a block of their own, which
// is where Pass goes.
func (l *lowerer) chain(s side) {
	w := walk{lowerer: l, side: s, block: Block{Name: l.name(s.block())}, rules: make(map[string]int)}
	c := l.rs.Chain(s.dir)
	for _, t := range c.Tiers {
		next := ""
		if slices.ContainsFunc(t.Rules, func(r Rule) bool { return r.Action == Pass }) {
			next = l.name(s.block(), "after-"+ident(t.Name, maxTier))
		}
		w.tier(t, next)
		switch {
		case t.Default != Pass:
			w.end(t.Default, w.rs.isolation(w.side.dir, t.Name, t.Selected))
			if next == "" {
				return
			}
		case next == "":
			continue
		default:
			w.line(Line{Verdict: goTo(next)})
			w.close()
		}
		w.block = Block{Name: next}
	}
	w.end(c.Default, w.rs.isolation(w.side.dir, "", nil))
}

func (w *walk) line(l Line) { w.block.Lines = append(w.block.Lines, l) }

// end closes the side's last block with what happens to a flow no rule decided.
func (w *walk) end(a Action, why Reason) {
	if a == Accept {
		w.line(Line{Verdict: w.verdict(Accept, "", why)})
	} else {
		l := Line{Verdict: w.verdict(Drop, "", why)}
		switch {
		case w.side.unseen: // the other side counts it, if it drops it too
		case why.Fate == Audited:
			l.Counter = w.counter(AuditCounter(w.table.Interface, w.side.dir))
			l.Comment = note("audit: no rule accepts it" + isolatedBy(why.Isolating))
		default:
			l.Counter = w.counter(DropCounter(w.table.Interface, w.side.dir))
			l.Comment = note("no rule accepts it" + isolatedBy(why.Isolating))
		}
		w.line(l)
	}
	w.close()
}

// close adds the block that was being filled.
func (w *walk) close() {
	w.add(w.block)
	for _, b := range w.ports {
		w.add(b)
	}
	w.ports = nil
}

func isolatedBy(refs []Ref) string {
	if len(refs) == 0 {
		return ""
	}
	names := make([]string, len(refs))
	for i, r := range refs {
		names[i] = r.String()
	}
	return "; isolated by " + strings.Join(names, ", ")
}

// verdict is what the kernel does for a in this side. Where nobody saw who
// opened the flow, a drop means: judge it the other way round.
func (w *walk) verdict(a Action, next string, why Reason) Verdict {
	switch {
	case a == Accept:
		return goTo(w.name("accept"))
	case a == Pass:
		return goTo(next)
	case w.side == arrivingUnseen:
		return goTo(w.name(leaving.block()))
	case w.side == leavingUnseen:
		return goTo(w.name(arriving.block()))
	}
	return w.refuse(why)
}

// A ruleLine is a line that matches (a part of) a rule, and the ports it is for.
type ruleLine struct {
	ports Ports
	line  Line // without the conditions on protocol and port
}

// plain is the line with its conditions on protocol and port.
func (r ruleLine) plain(port Key) Line {
	l := r.line
	var conds []Cond
	if r.ports.Proto != AnyProto {
		conds = append(conds, is(KeyProto, uint32(r.ports.Proto)))
	}
	if !r.ports.whole() {
		conds = append(conds, Cond{Key: port, First: uint32(r.ports.First), Last: uint32(r.ports.Last)})
	}
	l.Conds = append(conds, l.Conds...)
	return l
}

// tier adds the lines of t's rules. Runs of rules with one action may be tried
// in any order, so a long run is dispatched by protocol and port.
func (w *walk) tier(t Tier, next string) {
	for n, rest := 0, t.Rules; len(rest) > 0; n++ {
		end := 1
		for end < len(rest) && rest[end].Action == rest[0].Action {
			end++
		}
		var lines []ruleLine
		for _, r := range rest[:end] {
			lines = append(lines, w.rule(t.Name, r, next)...)
		}
		w.run(fmt.Sprintf("%s.%d", ident(t.Name, maxTier), n), lines)
		rest = rest[end:]
	}
}

// CounterOf is the name of the counter of rule r in a tier of direction d.
func CounterOf(iface string, d Direction, tier string, r Rule) string {
	return Prefix(iface) + counterID(d, tier, r)
}

func counterID(d Direction, tier string, r Rule) string {
	id := []string{d.String(), ident(tier, maxTier), ident(r.Origin.Name, maxName), fmt.Sprint(r.Index)}
	if r.Origin.Namespace != "" {
		id = slices.Insert(id, 2, ident(r.Origin.Namespace, maxNamespace))
	}
	return strings.Join(id, "/")
}

// DropCounter is the name of the counter of the flows of direction d that no
// rule accepted.
func DropCounter(iface string, d Direction) string { return Prefix(iface) + d.String() + "/drop" }

// UntrackedCounter is the name of the counter of packets that belong to no
// connection.
func UntrackedCounter(iface string) string { return Prefix(iface) + "untracked" }

// rule returns the lines of r, and adds its counter and sets.
func (w *walk) rule(tier string, r Rule, next string) []ruleLine {
	id := CounterOf(w.table.Interface, w.side.dir, tier, r)
	base := Line{
		Counter: w.counter(id),
		Verdict: w.verdict(r.Action, next, w.rs.refusal(w.side.dir, tier, r)),
		Comment: note(fmt.Sprintf("%s %s %s[%d]", r.Origin.Kind, r.Origin, w.side.dir, r.Index)),
	}
	sets := id
	if n := w.rules[id]; n > 0 { // rules of one name may share a counter, never a set
		sets = fmt.Sprintf("%s-%d", id, n)
	}
	w.rules[id]++
	var lines []ruleLine
	before := len(w.table.Sets)
	for i, m := range r.Matches {
		for _, conds := range w.peers(m.Peers, fmt.Sprintf("%s.%d", sets, i)) {
			for _, p := range m.Ports {
				if !p.none() {
					l := base
					l.Conds = conds
					lines = append(lines, ruleLine{ports: p, line: l})
				}
			}
		}
	}
	for i := range w.table.Sets[before:] {
		w.table.Sets[before+i].Denies = r.Action != Accept
	}
	return lines
}

// peers returns the alternatives that together mean "the far end is in p": one
// for each family, none if p is empty and no family is wanted.
func (w *walk) peers(p Peers, name string) [][]Cond {
	if p.Any {
		return [][]Cond{nil}
	}
	var alts [][]Cond
	for _, f := range []struct {
		v6   bool
		key  Key
		name string
	}{{false, w.side.addr4, "/ip"}, {true, w.side.addr6, "/ip6"}} {
		elems := p.family(f.v6)
		if !w.rs.wants(f.v6, elems) {
			continue
		}
		alts = append(alts, []Cond{in(f.key, w.set(name+f.name, f.v6, elems))})
	}
	return alts
}

// set adds a set, unless the other side of the same direction did, and returns
// its name. The two kinds of set have different names because the kernel can't
// turn one into the other.
func (w *walk) set(name string, v6 bool, elems []netip.Prefix) string {
	s := Set{Name: name, V6: v6, Elements: elems}
	if !w.hosts(elems) {
		s.Name, s.Interval = name+"-net", true
	}
	if !w.side.unseen {
		w.table.Sets = append(w.table.Sets, s)
	}
	w.sets[s.Name] = s
	return s.Name
}
