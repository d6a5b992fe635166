package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Part says what of a World somebody needs who judges flows of few pods with
// few far ends. The zero Part is nothing.
type Part struct {
	Pods []Pod // whose rules judge; they need not be in the World
	// Far are the other ends, each with the port that the flow was opened to there;
	// 0 where it was opened to the pod.
	Far      []netip.AddrPort
	Node     []netip.Addr  // the own node's addresses, beside those that the World gives it
	Policies []ruleset.Ref // that are wanted whomever they select
	// Kin returns what pods of one make have in common. One pod of each make that
	// there is in a namespace of the part is in it too, without addresses. Nil asks
	// for none of them.
	Kin func(Labels) string
}

// Part returns the part of w in which flows between p's pods and p's far ends are
// judged as in all of w: the pods and nodes at these addresses, the Services there
// with all that is behind them, and the policies that select p's pods. Everything
// is sorted by name.
func (w *World) Part(p Part) Snapshot {
	c := &cutter{World: w, pods: map[Name]*pod{}, services: map[Name]*Service{}, nodes: map[string]*Node{},
		policies: map[ruleset.Ref]*held{}, namespaces: map[string]*namespace{}}
	for i := range p.Pods {
		c.judge(&p.Pods[i])
	}
	for _, far := range p.Far {
		c.far(plain(far.Addr()), far.Port(), p.Node)
	}
	for _, ref := range p.Policies {
		if q := w.policies[ref]; q != nil {
			c.policies[ref] = q
		}
	}
	s := c.snapshot()
	if p.Kin != nil {
		s.Pods = append(s.Pods, c.kin(p.Kin)...)
	}
	slices.SortFunc(s.Pods, func(a, b Pod) int { return compareNames(a.key(), b.key()) })
	return s
}

// A cutter takes a part out of a World.
type cutter struct {
	*World
	pods       map[Name]*pod
	services   map[Name]*Service
	nodes      map[string]*Node
	policies   map[ruleset.Ref]*held
	namespaces map[string]*namespace
}

// judge takes what p's rules are compiled from, but for their peers.
func (c *cutter) judge(p *Pod) {
	if ns := c.World.namespaces[p.Namespace]; ns != nil {
		c.namespaces[ns.name] = ns
		if known := ns.pods[p.Name]; known != nil {
			c.take(known)
		}
	}
	if n := c.World.nodes[p.Node]; n != nil {
		c.nodes[n.Name] = n
	}
	of := compiler{World: c.World, serial: c.walk()}
	for _, q := range of.selecting(p) {
		c.policies[q.Ref] = q
	}
}

func (c *cutter) take(p *pod) {
	c.pods[Name{p.in.name, p.name}] = p
	c.namespaces[p.in.name] = p.in
}

// far takes who stands at a, and what a flow to that port leads to.
func (c *cutter) far(a netip.Addr, port uint16, node []netip.Addr) {
	for p := range c.podsAt.all(a) {
		c.take(p)
	}
	for _, s := range c.servicesAt[a] {
		c.serve(s)
	}
	isNode := slices.Contains(node, a)
	for _, n := range c.World.nodes {
		if slices.ContainsFunc(n.Addresses, func(b netip.Addr) bool { return plain(b) == a }) {
			c.nodes[n.Name], isNode = n, true
		}
	}
	if !isNode || port == 0 {
		return
	}
	for _, s := range c.World.services {
		if slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.NodePort == port }) {
			c.serve(s)
		}
	}
}

// serve takes a Service and the pods behind it.
func (c *cutter) serve(s *Service) {
	name := s.key()
	if c.services[name] != nil {
		return
	}
	c.services[name] = s
	for _, slice := range c.slicesOf[name] {
		for _, e := range slice.Endpoints {
			for _, a := range e.Addresses {
				for p := range c.podsAt.all(plain(a)) {
					c.take(p)
				}
			}
		}
	}
}

func (c *cutter) snapshot() Snapshot {
	var s Snapshot
	for _, name := range slices.Sorted(maps.Keys(c.namespaces)) {
		n, _ := c.Namespace(name)
		s.Namespaces = append(s.Namespaces, n)
	}
	for _, p := range c.pods {
		s.Pods = append(s.Pods, p.public())
	}
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		s.Nodes = append(s.Nodes, *c.nodes[name])
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.services), compareNames) {
		s.Services = append(s.Services, *c.services[name])
		for _, slice := range c.slicesOf[name] {
			s.Slices = append(s.Slices, *slice)
		}
	}
	slices.SortFunc(s.Slices, func(a, b EndpointSlice) int { return compareNames(a.key(), b.key()) })
	for _, q := range c.policies {
		s.Policies = append(s.Policies, *q.public())
	}
	slices.SortFunc(s.Policies, func(a, b Policy) int { return comparePolicies(&a, &b) })
	return s
}

// kin returns a pod of each make that has none in the part yet: the first by name,
// so that which one does not depend on chance.
func (c *cutter) kin(makeOf func(Labels) string) []Pod {
	type look struct{ namespace, make string }
	makes := map[tags]string{}
	lookOf := func(p *pod) look {
		text, ok := makes[p.tags]
		if !ok {
			text = makeOf(p.tags.labels())
			makes[p.tags] = text
		}
		return look{p.in.name, text}
	}
	here, first := map[look]bool{}, map[look]*pod{}
	for _, p := range c.pods {
		here[lookOf(p)] = true
	}
	for _, ns := range c.namespaces {
		for name, p := range ns.pods {
			if at := lookOf(p); p.peer() && !here[at] && (first[at] == nil || name < first[at].name) {
				first[at] = p
			}
		}
	}
	var list []Pod
	for _, p := range first {
		one := p.public()
		one.Addresses = nil
		list = append(list, one)
	}
	return list
}

func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
