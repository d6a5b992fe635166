package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// mostProblems are shown; a fault in a template makes as many as there are pods.
const mostProblems = 100

// remove puts into g that o is gone.
func remove(g *policy.Gone, o object) {
	switch o.kind {
	case namespaceKind:
		g.Namespaces = append(g.Namespaces, o.Name.Name)
	case "Node":
		g.Nodes = append(g.Nodes, o.Name.Name)
	case podKind:
		g.Pods = append(g.Pods, o.Name)
	case "Service":
		g.Services = append(g.Services, o.Name)
	case "EndpointSlice":
		g.Slices = append(g.Slices, o.Name)
	case policyKind:
		g.Policies = append(g.Policies, ruleset.Ref{Kind: policyKind, Namespace: o.Namespace, Name: o.Name.Name})
	}
}

// confirm lets go of the NetworkPolicies that were withdrawn, except in a namespace
// that is terminating: its controller deletes policies and pods in any order, and
// the pods must not be free meanwhile. The stream of namespaces may be behind the
// one of policies, so where it says nothing of the sort the API server is asked. It
// returns false if it is to be called again soon.
func (l *ledger) confirm(ctx context.Context) bool {
	names := l.questionable()
	settled := true
	for namespace, policies := range names {
		held, err := l.terminating(ctx, namespace)
		l.mu.Lock()
		switch {
		case err != nil:
			l.asked, settled = time.Now(), false
		case held:
			settled = false // its stream will say so too, and then that it is gone
		default:
			l.withdraw(policies)
		}
		l.mu.Unlock()
	}
	return settled
}

// questionable returns the withdrawn policies, by namespace, that are not known to
// have to stay. If a question has just been asked in vain there are none.
func (l *ledger) questionable() map[string][]policy.Name {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.withdrawn) == 0 || time.Since(l.asked) < confirmAgain/2 {
		return nil
	}
	names := map[string][]policy.Name{}
	for name := range l.withdrawn {
		if !l.ending(name.Namespace) {
			names[name.Namespace] = append(names[name.Namespace], name)
		}
	}
	return names
}

// ending reports whether the stream of namespaces says that one is terminating.
// l.mu is held.
func (l *ledger) ending(namespace string) bool {
	for _, m := range l.mirrors {
		if m.name == namespaceKind {
			return m.ends[namespace]
		}
	}
	return false
}

// withdraw forgets those of the policies that are still withdrawn. l.mu is held.
func (l *ledger) withdraw(policies []policy.Name) {
	for _, m := range l.mirrors {
		if m.name != policyKind {
			continue
		}
		for _, name := range policies {
			if l.withdrawn[name] {
				delete(l.withdrawn, name)
				m.forget(name)
			}
		}
	}
}

// problems returns all there are, those of the connection first. l.mu is held.
func (l *ledger) problems(faults []api.Problem) []api.Problem {
	list := slices.Clone(faults)
	if l.unsavable != "" {
		list = append(list, api.Problem{Object: "state.db", Message: "what the API server says is not kept for a restart: " + l.unsavable})
	}
	if missing := l.unlisted(); l.begun && len(missing) > 0 {
		list = append(list, api.Problem{Object: "API server", Message: fmt.Sprintf(
			"not read since podwalld started: %v; what was known at %s is in force", missing, l.restored.UTC().Format(time.RFC3339))})
	}
	var own []api.Problem
	for _, m := range l.mirrors {
		for _, ps := range m.problems {
			own = append(own, ps...)
		}
	}
	for name := range l.withdrawn {
		if l.ending(name.Namespace) {
			own = append(own, api.Problem{Object: policyKind + " " + name.Namespace + "/" + name.Name,
				Message: "withdrawn while its namespace is terminating: it stays until the namespace is gone"})
		}
	}
	slices.SortFunc(own, func(a, b api.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
	if more := len(own) - mostProblems; more > 0 {
		own = append(own[:mostProblems], api.Problem{Object: "API server", Message: fmt.Sprintf("%d more problems of objects", more)})
	}
	return append(list, own...)
}

// unlisted names the kinds that were not read in this run. l.mu is held.
func (l *ledger) unlisted() []string {
	missing := map[string]bool{}
	for _, m := range l.mirrors {
		if !m.listed {
			missing[m.resource] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}
