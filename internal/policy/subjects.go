package policy

import (
	"cmp"
	"slices"
)

// subjects are the policies that look into one namespace, or those that select
// namespaces. The cell changes with them.
type subjects struct {
	cell
	all   []*held
	index *finder[*held] // by the pods they select; nil until asked for
}

// few is up to how many policies are asked one by one.
const few = 16

func (s *subjects) add(p *held, now uint64) {
	s.all, s.index, s.changed = append(s.all, p), nil, now
}

func (s *subjects) remove(p *held, now uint64) {
	i := slices.Index(s.all, p)
	s.all, s.index, s.changed = slices.Delete(s.all, i, i+1), nil, now
}

// visit calls found for each policy that may select a pod with these labels, and
// perhaps for others.
func (s *subjects) visit(w *World, labels Labels, found func(*held)) {
	if len(s.all) <= few {
		for _, p := range s.all {
			found(p)
		}
		return
	}
	if s.index == nil {
		s.index = &finder[*held]{}
		for _, p := range s.all {
			s.index.add("", w.policy(p).Subject.Pods, p)
		}
	}
	s.index.visit("", labels.all, found)
}

// selecting returns the policies that select p, in the order they are tried.
func (c *compiler) selecting(p *Pod) []*held {
	if p.HostNetwork {
		return nil
	}
	ns := c.namespaces[p.Namespace]
	if ns == nil {
		c.uses(&c.named)
		ns = &namespace{name: p.Namespace, tags: namespaceTags(p.Namespace, nil)}
	}
	c.uses(&ns.cell, &ns.policies.cell, &c.wide.cell)
	var selecting []*held
	for _, list := range []*subjects{&ns.policies, &c.wide} {
		list.visit(c.World, p.Labels, func(q *held) {
			if s := &c.policy(q).Subject; s.inside(ns) && picks(s.Pods, p.Labels) {
				selecting = append(selecting, q)
			}
		})
	}
	slices.SortFunc(selecting, func(a, b *held) int { return comparePolicies(c.policy(a), c.policy(b)) })
	return selecting
}

// layers stand in the order in which a flow meets them.
var layers = []Layer{Admin, Standard, Baseline}

// comparePolicies is the order in which policies are tried. Among NetworkPolicies
// it carries no meaning, only stability.
func comparePolicies(a, b *Policy) int {
	if a.Layer != b.Layer {
		return slices.Index(layers, a.Layer) - slices.Index(layers, b.Layer)
	}
	if a.Layer != Standard && a.Priority != b.Priority {
		return cmp.Compare(a.Priority, b.Priority)
	}
	return cmp.Or(cmp.Compare(a.Ref.Kind, b.Ref.Kind),
		cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name))
}
