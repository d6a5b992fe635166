package policy

import (
	"iter"
	"maps"
	"reflect"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Change leads from one state of a Snapshot to the next. The zero Change
// changes nothing.
type Change struct {
	Set  Snapshot // objects that are new or differ, each whole
	Gone Gone     // objects that are no more; an object is never in both
}

// Gone names objects that are no more. Names that nothing bears are ignored.
type Gone struct {
	Namespaces, Nodes      []string
	Pods, Services, Slices []Name
	Policies               []ruleset.Ref
}

// A Name is an object's within its kind. A struct, not a joined string: the pods
// ("a-b", "c") and ("a", "b-c") are two.
type Name struct{ Namespace, Name string }

// Difference is the Change that leads from one Snapshot to another.
func Difference(from, to Snapshot) Change {
	var c Change
	c.Set.Namespaces, c.Gone.Namespaces = difference(from.Namespaces, to.Namespaces, (*Namespace).key)
	c.Set.Nodes, c.Gone.Nodes = difference(from.Nodes, to.Nodes, (*Node).key)
	c.Set.Pods, c.Gone.Pods = difference(from.Pods, to.Pods, (*Pod).key)
	c.Set.Services, c.Gone.Services = difference(from.Services, to.Services, (*Service).key)
	c.Set.Slices, c.Gone.Slices = difference(from.Slices, to.Slices, (*EndpointSlice).key)
	c.Set.Policies, c.Gone.Policies = difference(from.Policies, to.Policies, (*Policy).key)
	return c
}

func difference[K comparable, V any](from, to []V, key func(*V) K) (set []V, gone []K) {
	before := make(map[K]*V, len(from))
	for i := range from {
		before[key(&from[i])] = &from[i]
	}
	for i := range to {
		k := key(&to[i])
		if old, ok := before[k]; !ok || !reflect.DeepEqual(old, &to[i]) {
			set = append(set, to[i])
		}
		delete(before, k)
	}
	for k := range before {
		gone = append(gone, k)
	}
	return set, gone
}

// Beyond names the objects of w that s does not have: with them gone and s set, w
// is what New makes of s.
func (w *World) Beyond(s Snapshot) Gone {
	return Gone{
		Namespaces: beyond(w.declared, s.Namespaces, (*Namespace).key),
		Nodes:      beyond(maps.Keys(w.nodes), s.Nodes, (*Node).key),
		Pods:       beyond(w.podNames, s.Pods, (*Pod).key),
		Services:   beyond(maps.Keys(w.services), s.Services, (*Service).key),
		Slices:     beyond(maps.Keys(w.slices), s.Slices, (*EndpointSlice).key),
		Policies:   beyond(maps.Keys(w.policies), s.Policies, (*Policy).key),
	}
}

func beyond[K comparable, V any](have iter.Seq[K], want []V, key func(*V) K) (gone []K) {
	wanted := make(map[K]bool, len(want))
	for i := range want {
		wanted[key(&want[i])] = true
	}
	for k := range have {
		if !wanted[k] {
			gone = append(gone, k)
		}
	}
	return gone
}

// declared yields the namespaces that have an object of their own.
func (w *World) declared(yield func(string) bool) {
	for name, ns := range w.namespaces {
		if ns.declared && !yield(name) {
			return
		}
	}
}

func (w *World) podNames(yield func(Name) bool) {
	for _, ns := range w.namespaces {
		for name := range ns.pods {
			if !yield(Name{ns.name, name}) {
				return
			}
		}
	}
}

func (n *Namespace) key() string   { return n.Name }
func (n *Node) key() string        { return n.Name }
func (p *Pod) key() Name           { return Name{p.Namespace, p.Name} }
func (s *Service) key() Name       { return Name{s.Namespace, s.Name} }
func (e *EndpointSlice) key() Name { return Name{e.Namespace, e.Name} }
func (p *Policy) key() ruleset.Ref { return p.Ref }
