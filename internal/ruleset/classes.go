package ruleset

import (
	"net/netip"
	"slices"
	"strings"
)

// classify replaces lines that accept sets of single addresses, if they are many,
// by one that looks the address up in a map and jumps to the block of the rule
// whose peer it is:
//
//	ct original ip saddr vmap @eth0/ingress/policy.0/tcp/80/ip
//
//	map eth0/ingress/policy.0/tcp/80/ip {
//		type ipv4_addr : verdict
//		elements = { 10.0.0.2 : jump eth0/ingress/policy/shop/api/0, ... }
//
// so that a packet meets one line where it met a thousand. An address that
// several of the lines name is counted by the first. The order of lines carries
// no meaning here.
func (w *walk) classify(name string, lines []Line) []Line {
	for _, key := range []Key{w.side.addr4, w.side.addr6} {
		lines = w.classifyBy(key, name, lines)
	}
	return lines
}

func (w *walk) classifyBy(key Key, name string, lines []Line) []Line {
	var classes, others []Line
	for _, l := range lines {
		if w.class(l, key) {
			classes = append(classes, l)
		} else {
			others = append(others, l)
		}
	}
	if len(classes) <= walked {
		return lines
	}
	for i := range classes {
		w.leaf(classes[i])
	}
	m := Verdict{Kind: VerdictMap, Key: key, Target: w.classMap(key, name, classes)}
	return append([]Line{{Verdict: m}}, others...)
}

// class reports whether l does nothing but accept what key finds in a set of
// single addresses.
func (w *walk) class(l Line, key Key) bool {
	return len(l.Conds) == 1 && l.Conds[0].Key == key && l.Verdict == goTo(w.name("accept")) && l.Counter != "" &&
		!w.sets[l.Conds[0].Set].Interval
}

// leaf adds the block of a rule, named like its counter, once.
func (w *walk) leaf(l Line) {
	if w.leaves[l.Counter] {
		return
	}
	w.leaves[l.Counter] = true
	l.Conds = nil
	w.ports = append(w.ports, Block{Name: l.Counter, Lines: []Line{l}})
}

// classMap returns the name of the map from the addresses in the sets of classes
// to their blocks, and adds it unless the same sets have one already.
func (w *walk) classMap(key Key, name string, classes []Line) string {
	names := make([]string, len(classes))
	for i, l := range classes {
		names[i] = l.Conds[0].Set
	}
	id := strings.Join(names, " ")
	if known, ok := w.maps[id]; ok {
		return known
	}
	m := Set{Name: name + "/ip", V6: w.sets[names[0]].V6}
	if m.V6 {
		m.Name = name + "/ip6"
	}
	var peers []classed
	for i, l := range classes {
		for _, p := range w.sets[names[i]].Elements {
			peers = append(peers, classed{p, l.Counter})
		}
	}
	slices.SortStableFunc(peers, func(a, b classed) int { return ComparePrefix(a.peer, b.peer) })
	peers = slices.CompactFunc(peers, func(a, b classed) bool { return a.peer == b.peer })
	m.Elements, m.Targets = make([]netip.Prefix, len(peers)), make([]string, len(peers))
	for i, p := range peers {
		m.Elements[i], m.Targets[i] = p.peer, p.block
	}
	w.table.Sets = append(w.table.Sets, m)
	w.maps[id] = m.Name
	return m.Name
}

// A classed peer is one and the block of its rule.
type classed struct {
	peer  netip.Prefix
	block string
}

// tidy removes the sets that no line looks into, since a map took their place.
func (l *lowerer) tidy() {
	used := map[string]bool{}
	for _, b := range l.table.Blocks {
		for _, line := range b.Lines {
			for _, c := range line.Conds {
				used[c.Set] = true
			}
			if line.Verdict.Kind == VerdictMap {
				used[line.Verdict.Target] = true
			}
		}
	}
	l.table.Sets = slices.DeleteFunc(l.table.Sets, func(s Set) bool { return !used[s.Name] })
}
