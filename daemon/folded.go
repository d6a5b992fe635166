package main

import (
	"context"
	"maps"
	"slices"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/kube"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A folded source publishes whole Worlds of a source that counts differences, for a
// Keeper that takes Worlds. One that takes Updates needs the source alone.
type folded struct {
	*kube.Source
	namespaces map[string]policy.Namespace
	nodes      map[string]policy.Node
	pods       map[policy.Name]policy.Pod
	services   map[policy.Name]policy.Service
	slices     map[policy.Name]policy.EndpointSlice
	policies   map[ruleset.Ref]policy.Policy
}

// Run is source.Source's.
func (f *folded) Run(ctx context.Context, publish func(source.World)) error {
	return f.Source.Run(ctx, func(u source.Update) {
		if u.Whole {
			f.namespaces, f.nodes, f.pods = map[string]policy.Namespace{}, map[string]policy.Node{}, map[policy.Name]policy.Pod{}
			f.services, f.slices, f.policies = map[policy.Name]policy.Service{}, map[policy.Name]policy.EndpointSlice{}, map[ruleset.Ref]policy.Policy{}
		}
		fold(f.namespaces, u.Set.Namespaces, u.Gone.Namespaces, func(n policy.Namespace) string { return n.Name })
		fold(f.nodes, u.Set.Nodes, u.Gone.Nodes, func(n policy.Node) string { return n.Name })
		fold(f.pods, u.Set.Pods, u.Gone.Pods, func(p policy.Pod) policy.Name { return policy.Name{Namespace: p.Namespace, Name: p.Name} })
		fold(f.services, u.Set.Services, u.Gone.Services, func(s policy.Service) policy.Name { return policy.Name{Namespace: s.Namespace, Name: s.Name} })
		fold(f.slices, u.Set.Slices, u.Gone.Slices, func(s policy.EndpointSlice) policy.Name {
			return policy.Name{Namespace: s.Namespace, Name: s.Name}
		})
		fold(f.policies, u.Set.Policies, u.Gone.Policies, func(p policy.Policy) ruleset.Ref { return p.Ref })
		publish(source.World{Problems: u.Problems, Objects: u.Objects, Unknown: u.Unknown, Snapshot: policy.Snapshot{
			Namespaces: slices.Collect(maps.Values(f.namespaces)), Nodes: slices.Collect(maps.Values(f.nodes)),
			Pods: slices.Collect(maps.Values(f.pods)), Services: slices.Collect(maps.Values(f.services)),
			Slices: slices.Collect(maps.Values(f.slices)), Policies: slices.Collect(maps.Values(f.policies)),
		}})
	})
}

func fold[K comparable, V any](known map[K]V, set []V, gone []K, name func(V) K) {
	for _, v := range set {
		known[name(v)] = v
	}
	for _, k := range gone {
		delete(known, k)
	}
}
