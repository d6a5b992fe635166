package policy

import (
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// A World is a Snapshot that is indexed, and that Apply changes. It remembers
// what it has worked out (see memory.go), so that compiling for a second pod
// costs less than for the first, and a change no more than what it touches. Even
// its lookups must not be called by two goroutines at once.
type World struct {
	now     uint64 // counts the Changes
	settled uint64 // up to which of them all that is remembered is up to date

	// The objects.
	namespaces map[string]*namespace
	labelled   map[label][]*namespace // by their labels but for their name
	podsAt     places
	nodes      map[string]*Node
	services   map[Name]*Service
	servicesAt map[netip.Addr][]*Service
	slices     map[Name]*EndpointSlice
	slicesOf   map[Name][]*EndpointSlice // by the Service they serve
	policies   map[ruleset.Ref]*held
	spelled    []*held  // those of the policies that are spelled out
	wide       subjects // of the policies that select namespaces

	// What they come to.
	named      cell                  // which namespaces there are
	gatherings map[string]*gathering // by the content of a list of peers and named ports
	gatherers  finder[*gathering]    // by the sets of pods they look at
	unsettled  []*gathering
	shifted    map[*cell]*gathering // by the last settling
	sides      map[sideOf]*side
	doors      *doors             // nil until asked for
	egresses   map[string]*egress // by what selects the pod, and its node
	walks      uint64
}

// New returns a World of s. What s refers to must not change any more.
func New(s Snapshot) *World {
	w := &World{
		namespaces: make(map[string]*namespace, len(s.Namespaces)),
		labelled:   make(map[label][]*namespace),
		podsAt:     places{one: make(map[netip.Addr]*pod, len(s.Pods)), more: make(map[netip.Addr][]*pod)},
		nodes:      make(map[string]*Node),
		services:   make(map[Name]*Service),
		servicesAt: make(map[netip.Addr][]*Service),
		slices:     make(map[Name]*EndpointSlice),
		slicesOf:   make(map[Name][]*EndpointSlice),
		policies:   make(map[ruleset.Ref]*held, len(s.Policies)),
		gatherings: make(map[string]*gathering),
		sides:      make(map[sideOf]*side),
		egresses:   make(map[string]*egress),
	}
	w.Apply(Change{Set: s})
	return w
}

// settle brings everything that is remembered up to date with the objects.
func (w *World) settle() {
	if w.settled == w.now {
		return
	}
	w.settled, w.shifted = w.now, make(map[*cell]*gathering)
	for _, g := range w.unsettled {
		if g.settle(w) {
			w.shifted[&g.cell] = g
		}
	}
	w.unsettled = nil
	if w.doors != nil {
		w.doors.settle(w)
	}
	for _, e := range w.egresses {
		e.settle(w)
	}
}

// plain is a without what does not belong to an address on the wire.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// single is the prefix that holds a alone.
func single(a netip.Addr) netip.Prefix {
	a = plain(a)
	return netip.PrefixFrom(a, a.BitLen())
}

// distinct returns addrs sorted, each once, unmapped.
func distinct(addrs []netip.Addr) []netip.Addr {
	if len(addrs) == 0 {
		return nil
	}
	list := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, plain(a))
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
