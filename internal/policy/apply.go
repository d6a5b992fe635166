package policy

import (
	"reflect"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// Apply makes of w what New would make of the Snapshot after c. It costs what c
// touches: an object in c.Set that does not differ costs a comparison. What c
// refers to must not change any more.
func (w *World) Apply(c Change) {
	w.now++
	for i := range c.Set.Namespaces {
		w.setNamespace(&c.Set.Namespaces[i])
	}
	for i := range c.Set.Nodes {
		w.setNode(&c.Set.Nodes[i])
	}
	for i := range c.Set.Pods {
		w.setPod(&c.Set.Pods[i])
	}
	for i := range c.Set.Services {
		w.setService(&c.Set.Services[i])
	}
	for i := range c.Set.Slices {
		w.setSlice(&c.Set.Slices[i])
	}
	for i := range c.Set.Policies {
		w.setPolicy(&c.Set.Policies[i])
	}
	w.remove(&c.Gone)
}

func (w *World) remove(gone *Gone) {
	for _, name := range gone.Policies {
		w.dropPolicy(name)
	}
	for _, name := range gone.Slices {
		w.dropSlice(name)
	}
	for _, name := range gone.Services {
		w.dropService(name)
	}
	for _, name := range gone.Pods {
		if ns := w.namespaces[name.Namespace]; ns != nil {
			w.dropPod(ns, name.Name)
			w.leave(ns)
		}
	}
	for _, name := range gone.Nodes {
		if _, ok := w.nodes[name]; ok {
			delete(w.nodes, name)
			w.renumbered()
		}
	}
	for _, name := range gone.Namespaces {
		if ns := w.namespaces[name]; ns != nil && ns.declared {
			ns.declared, ns.terminating, ns.audit, ns.observe = false, false, NoWish, NoWish
			w.label(ns, nil)
			w.leave(ns)
		}
	}
}

func (w *World) setNamespace(n *Namespace) {
	ns := w.namespace(n.Name)
	ns.declared, ns.terminating, ns.audit, ns.observe = true, n.Terminating, n.Audit, n.Observe
	w.label(ns, n.Labels)
}

func (w *World) setNode(n *Node) {
	if old, ok := w.nodes[n.Name]; !ok || !reflect.DeepEqual(old, n) {
		kept := *n
		w.nodes[n.Name] = &kept
		w.renumbered()
	}
}

func (w *World) setPod(p *Pod) {
	ns := w.namespace(p.Namespace)
	now := podOf(ns, p)
	if old := ns.pods[p.Name]; old != nil && old.same(now) {
		return
	}
	w.dropPod(ns, p.Name)
	if ns.pods == nil {
		ns.pods = make(map[string]*pod)
	}
	ns.pods[p.Name] = now
	w.podsAt.add(now)
	w.touch(now)
}

func (w *World) dropPod(ns *namespace, name string) {
	if p := ns.pods[name]; p != nil {
		delete(ns.pods, name)
		w.podsAt.remove(p)
		w.touch(p)
	}
}

func (w *World) setService(s *Service) {
	name := Name{s.Namespace, s.Name}
	if old, ok := w.services[name]; ok {
		if reflect.DeepEqual(old, s) {
			return
		}
		w.unplace(old)
	} else {
		w.namespace(s.Namespace).services++
	}
	kept := *s
	w.services[name] = &kept
	for _, a := range distinct(s.Addresses) {
		w.servicesAt[a] = append(w.servicesAt[a], &kept)
	}
	w.rehung(name)
}

func (w *World) dropService(name Name) {
	if s := w.services[name]; s != nil {
		delete(w.services, name)
		w.unplace(s)
		w.rehung(name)
		ns := w.namespaces[name.Namespace]
		ns.services--
		w.leave(ns)
	}
}

// unplace takes s from its addresses.
func (w *World) unplace(s *Service) {
	for _, a := range distinct(s.Addresses) {
		list := slices.DeleteFunc(w.servicesAt[a], func(t *Service) bool { return t == s })
		if w.servicesAt[a] = list; len(list) == 0 {
			delete(w.servicesAt, a)
		}
	}
}

func (w *World) setSlice(s *EndpointSlice) {
	name := Name{s.Namespace, s.Name}
	if old := w.slices[name]; old != nil && reflect.DeepEqual(old, s) {
		return
	}
	w.dropSlice(name)
	kept := *s
	w.slices[name] = &kept
	of := Name{s.Namespace, s.Service}
	w.slicesOf[of] = append(w.slicesOf[of], &kept)
	w.rehung(of)
}

func (w *World) dropSlice(name Name) {
	s := w.slices[name]
	if s == nil {
		return
	}
	delete(w.slices, name)
	of := Name{s.Namespace, s.Service}
	list := slices.DeleteFunc(w.slicesOf[of], func(t *EndpointSlice) bool { return t == s })
	if w.slicesOf[of] = list; len(list) == 0 {
		delete(w.slicesOf, of)
	}
	w.rehung(of)
}

func (w *World) setPolicy(p *Policy) {
	now := hold(p)
	if old := w.policies[p.Ref]; old != nil && old.text == now.text {
		return
	}
	w.dropPolicy(p.Ref)
	w.policies[p.Ref] = now
	if p.Subject.Namespace == "" {
		w.wide.add(now, w.now)
		return
	}
	w.namespace(p.Subject.Namespace).policies.add(now, w.now)
}

func (w *World) dropPolicy(name ruleset.Ref) {
	h := w.policies[name]
	if h == nil {
		return
	}
	delete(w.policies, name)
	in := h.public().Subject.Namespace
	if in == "" {
		w.wide.remove(h, w.now)
		return
	}
	ns := w.namespaces[in]
	ns.policies.remove(h, w.now)
	w.leave(ns)
}
