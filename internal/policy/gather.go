package policy

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/podwall/podwall/internal/ruleset"
)

// A gathering is the far ends that a list of peers comes to: one list of their
// addresses or, if it is about named ports, one for each number that pods call by
// these names. It keeps up with the cluster address by address: which lists an
// address is in depends on the pods that have it now, and on nothing before.
type gathering struct {
	cell
	peers   []Peer
	names   []Port // the named ports it is about; none if it is about addresses
	blocks  ruleset.Peers
	lists   map[ruleset.Ports]ruleset.Peers // the zero Ports' if it is about addresses
	matches []ruleset.Match                 // of lists, if it is about named ports
	pending []netip.Addr                    // that may be in other lists than they are
	moved   []netip.Addr                    // that were, when it last changed
}

// anyPods are the pods that may be peers at all.
var anyPods = PodSet{Namespaces: Selector{All: true}, Pods: Selector{All: true}}

// sets calls visit for the sets of pods that g looks at.
func (g *gathering) sets(visit func(*PodSet)) {
	for i := range g.peers {
		if g.peers[i].Any {
			visit(&anyPods)
		} else {
			visit(&g.peers[i].Pods)
		}
	}
}

// constant reports whether g is everyone, whatever pods there are.
func (g *gathering) constant() bool {
	return len(g.names) == 0 && slices.ContainsFunc(g.peers, func(p Peer) bool { return p.Any })
}

// gather returns the gathering of peers about names, which may be none.
func (w *World) gather(peers []Peer, names []Port) *gathering {
	key := namesKey(names) + peersKey(peers)
	if g, ok := w.gatherings[key]; ok {
		return g
	}
	g := &gathering{peers: peers, lists: make(map[ruleset.Ports]ruleset.Peers)}
	for _, p := range names {
		if p.named() {
			g.names = append(g.names, p)
		}
	}
	w.gatherings[key] = g
	if g.constant() {
		g.lists[ruleset.Ports{}] = ruleset.Everyone
		return g
	}
	g.collect(w)
	g.sets(func(s *PodSet) { w.gatherers.add(s.Namespace, s.Pods, g) })
	return g
}

// dismiss stops keeping g up to date.
func (w *World) dismiss(g *gathering) {
	g.forget()
	if !g.constant() {
		g.sets(func(s *PodSet) { w.gatherers.remove(s.Namespace, s.Pods, g) })
	}
}

// collect fills the lists from all pods.
func (g *gathering) collect(w *World) {
	found := make(map[ruleset.Ports][]netip.Prefix)
	if len(g.names) == 0 {
		for _, p := range g.peers {
			found[ruleset.Ports{}] = append(found[ruleset.Ports{}], p.Block...)
		}
		g.blocks = ruleset.NewPeers(found[ruleset.Ports{}])
	}
	g.sets(func(s *PodSet) {
		for ns := range w.inside(s) {
			for _, p := range ns.pods {
				if !p.peer() || !picks(s.Pods, p.tags) {
					continue
				}
				for _, list := range g.listsOf(p) {
					for _, a := range p.addrs {
						found[list] = append(found[list], single(a))
					}
				}
			}
		}
	})
	for list, prefixes := range found {
		g.lists[list] = newPeers(prefixes)
	}
	g.finish()
}

// listsOf returns the lists that p's addresses are in if p is of one of the sets.
func (g *gathering) listsOf(p *pod) []ruleset.Ports {
	if len(g.names) == 0 {
		return []ruleset.Ports{{}}
	}
	return numbersOf(p.ports.all, g.names)
}

// listsAt returns the lists that a is in, as the pods are now.
func (g *gathering) listsAt(w *World, a netip.Addr) []ruleset.Ports {
	var lists []ruleset.Ports
	for p := range w.podsAt.all(a) {
		in := false
		g.sets(func(s *PodSet) { in = in || p.inSet(s) })
		if in {
			lists = append(lists, g.listsOf(p)...)
		}
	}
	return lists
}

// touch says that the address of p, which is new, differs or is no more, may be
// in other lists than they were.
func (w *World) touch(p *pod) {
	if p.peer() {
		w.gatherers.visit(p.in.name, p.tags.all, func(g *gathering) { w.look(g, p.addrs) })
	}
}

// look has g look at addrs again.
func (w *World) look(g *gathering, addrs []netip.Addr) {
	if len(g.pending) == 0 && len(addrs) > 0 {
		w.unsettled = append(w.unsettled, g)
	}
	for _, a := range addrs {
		g.pending = append(g.pending, plain(a))
	}
}

// relabelled has all gatherings look at ns again that may see it otherwise than
// when it had the labels before.
func (w *World) relabelled(ns *namespace, before tags) {
	if len(ns.pods) == 0 {
		return
	}
	for _, g := range w.gatherings {
		flips := false
		g.sets(func(s *PodSet) {
			flips = flips || s.Namespace == "" && picks(s.Namespaces, before) != picks(s.Namespaces, ns.tags)
		})
		if !flips || g.constant() {
			continue
		}
		for _, p := range ns.pods {
			w.look(g, p.addrs)
		}
	}
}

// settle brings the lists up to date with the pods, and reports whether that
// changed any.
func (g *gathering) settle(w *World) bool {
	slices.SortFunc(g.pending, netip.Addr.Compare)
	edits := make(map[ruleset.Ports][]edit)
	var moved []netip.Addr
	for _, a := range slices.Compact(g.pending) {
		if g.blocks.Contains(a) {
			continue // it is there as a part of the block
		}
		want, n := g.listsAt(w, a), len(moved)
		for list, peers := range g.lists {
			if has(peers, a) && !slices.Contains(want, list) {
				edits[list], moved = append(edits[list], edit{single(a), false}), append(moved[:n], a)
			}
		}
		for i, list := range want {
			if !has(g.lists[list], a) && !slices.Contains(want[:i], list) {
				edits[list], moved = append(edits[list], edit{single(a), true}), append(moved[:n], a)
			}
		}
	}
	g.pending = nil
	if len(edits) == 0 {
		return false
	}
	for list, es := range edits {
		if g.lists[list] = splice(g.lists[list], es); len(g.lists[list].Prefixes) == 0 {
			delete(g.lists, list)
		}
	}
	g.changed, g.moved = w.now, moved
	g.finish()
	return true
}

// finish works out the matches of the lists.
func (g *gathering) finish() {
	if len(g.names) == 0 {
		return
	}
	g.matches = make([]ruleset.Match, 0, len(g.lists))
	for n, peers := range g.lists {
		g.matches = append(g.matches, ruleset.Match{Peers: peers, Ports: []ruleset.Ports{n}})
	}
	slices.SortFunc(g.matches, func(a, b ruleset.Match) int { return comparePorts(a.Ports[0], b.Ports[0]) })
}

// An edit puts an address into a list or takes it out.
type edit struct {
	prefix netip.Prefix
	add    bool
}

// has reports whether a is an element of its own of p.
func has(p ruleset.Peers, a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(p.Prefixes, single(a), ruleset.ComparePrefix)
	return ok
}

// splice returns p after edits, which are sorted, each of which changes it, and
// none of which is inside another prefix of p. It copies what stays in as few
// pieces as there are edits: p may have 100,000 prefixes, and belongs to others.
func splice(p ruleset.Peers, edits []edit) ruleset.Peers {
	n := len(p.Prefixes)
	for _, e := range edits {
		if e.add {
			n++
		} else {
			n--
		}
	}
	if n == 0 {
		return ruleset.Peers{}
	}
	list, rest := make([]netip.Prefix, 0, n), p.Prefixes
	for _, e := range edits {
		i := sort.Search(len(rest), func(i int) bool { return ruleset.ComparePrefix(rest[i], e.prefix) >= 0 })
		list, rest = append(list, rest[:i]...), rest[i:]
		if e.add {
			list = append(list, e.prefix)
		} else {
			rest = rest[1:]
		}
	}
	return ruleset.Peers{Prefixes: append(list, rest...)}
}
