package policy

import (
	"net/netip"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Selection is a policy that selects a pod, and why.
type Selection struct {
	Policy          ruleset.Ref
	Layer           Layer
	Ingress, Egress bool   // the directions it speaks about
	Selector        string // that picks the pod, as kubectl writes it
	Broken          string // why the policy can't be honoured; empty if it can
}

// Selecting returns the policies that select p, in the order they are tried.
// Policies never select a hostNetwork pod. p need not be in the Snapshot.
func (w *World) Selecting(p Pod) []Selection {
	var list []Selection
	c := compiler{World: w, serial: w.walk()}
	for _, h := range c.selecting(&p) {
		q := w.policy(h)
		list = append(list, Selection{
			Policy:   q.Ref,
			Layer:    q.Layer,
			Ingress:  q.Ingress.Applies,
			Egress:   q.Egress.Applies,
			Selector: q.Subject.String(),
			Broken:   q.Broken,
		})
	}
	return list
}

// Pod returns a pod of the Snapshot, also if it is done.
func (w *World) Pod(namespace, name string) (Pod, bool) {
	if ns, ok := w.namespaces[namespace]; ok && ns.pods[name] != nil {
		return ns.pods[name].public(), true
	}
	return Pod{}, false
}

// PodsAt returns the pods that have address a and are not done. They are several
// where pods share their node's address, or while an address changes hands.
func (w *World) PodsAt(a netip.Addr) []Pod {
	var list []Pod
	for p := range w.podsAt.all(plain(a)) {
		list = append(list, p.public())
	}
	return list
}

// Namespace returns a namespace with its labels, if any object names it.
func (w *World) Namespace(name string) (Namespace, bool) {
	if ns, ok := w.namespaces[name]; ok {
		return Namespace{Name: ns.name, Labels: ns.tags.labels(), Terminating: ns.terminating, Audit: ns.audit, Observe: ns.observe}, true
	}
	return Namespace{}, false
}

// Node returns a node of the Snapshot.
func (w *World) Node(name string) (Node, bool) { return found(w.nodes[name]) }

// Service returns a Service of the Snapshot.
func (w *World) Service(namespace, service string) (Service, bool) {
	return found(w.services[Name{namespace, service}])
}

// ServicesAt returns the Services that have the virtual address a.
func (w *World) ServicesAt(a netip.Addr) []Service {
	var list []Service
	for _, s := range w.servicesAt[plain(a)] {
		list = append(list, *s)
	}
	return list
}

func found[T any](p *T) (T, bool) {
	if p == nil {
		var none T
		return none, false
	}
	return *p, true
}

// A Backend is where a Service's port leads.
type Backend struct {
	Addr  netip.AddrPort
	Ready bool
}

// Backends returns the endpoints behind port p of s that a connection to virtual
// address vip may reach: those of its family, in no order, ready or not.
func (w *World) Backends(s Service, p ServicePort, vip netip.Addr) []Backend {
	var list []Backend
	for _, slice := range w.slicesOf[Name{s.Namespace, s.Name}] {
		for _, port := range slice.Ports {
			if port.Name == p.Name && port.Proto == p.Proto {
				list = slice.backends(list, port.Port, plain(vip).BitLen())
			}
		}
	}
	return list
}

func (e *EndpointSlice) backends(list []Backend, port uint16, bits int) []Backend {
	for _, end := range e.Endpoints {
		for _, a := range end.Addresses {
			if a = plain(a); a.BitLen() == bits {
				list = append(list, Backend{Addr: netip.AddrPortFrom(a, port), Ready: end.Ready})
			}
		}
	}
	return list
}
