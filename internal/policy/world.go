package policy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// NamespaceNameLabel is the label that every namespace has, with its own name.
const NamespaceNameLabel = "kubernetes.io/metadata.name"

// A World is a Snapshot that is indexed, and that Apply changes. It remembers
// what it has worked out (see memory.go), so that compiling for a second pod
// costs less than for the first, and a change no more than what it touches. Even
// its lookups must not be called by two goroutines at once.
type World struct {
	now     uint64 // counts the Changes
	settled uint64 // up to which of them all that is remembered is up to date

	// The objects.
	namespaces map[string]*namespace
	podsAt     places
	nodes      map[string]*Node
	services   map[Name]*Service
	servicesAt map[netip.Addr][]*Service
	slices     map[Name]*EndpointSlice
	slicesOf   map[Name][]*EndpointSlice // by the Service they serve
	policies   map[ruleset.Ref]*held
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

// A namespace is one with what it holds.
type namespace struct {
	cell        // its labels
	name        string
	tags        tags
	declared    bool // by an object of its own
	terminating bool
	audit       Wish
	observe     Wish
	services    int
	pods        map[string]*pod
	policies    subjects // of those that look into it
}

// New returns a World of s. What s refers to must not change any more.
func New(s Snapshot) *World {
	w := &World{
		namespaces: make(map[string]*namespace, len(s.Namespaces)),
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

// namespace returns the namespace of that name, which then exists.
func (w *World) namespace(name string) *namespace {
	ns, ok := w.namespaces[name]
	if !ok {
		ns = &namespace{name: name, tags: namespaceTags(name, nil)}
		w.namespaces[name] = ns
		w.named.changed = w.now
	}
	return ns
}

// leave forgets ns if nothing names it any more.
func (w *World) leave(ns *namespace) {
	if !ns.declared && ns.services == 0 && len(ns.pods) == 0 && len(ns.policies.all) == 0 {
		ns.forget()
		ns.policies.forget()
		delete(w.namespaces, ns.name)
	}
}

// namespaceTags are the labels of a namespace, of which its name is always one.
func namespaceTags(name string, labels Labels) tags {
	if labels[NamespaceNameLabel] != name {
		labels = maps.Clone(labels)
		if labels == nil {
			labels = Labels{}
		}
		labels[NamespaceNameLabel] = name
	}
	return tagsOf(labels)
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
