package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// world makes a World of the tree, and stores what the next start needs. The
// problems given come first.
func (t *tree) world(problems []api.Problem) source.World {
	objects, twice := unique(t.objects())
	objects, kept := t.keep(objects)
	t.save()
	problems = slices.Concat(problems, t.problems(), twice, kept)
	slices.SortStableFunc(objects, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	w := source.World{Problems: problems, Objects: map[string]int{}, Unknown: t.unknown()}
	for _, o := range objects {
		w.Objects[o.kind]++
		switch v := o.value.(type) {
		case policy.Namespace:
			w.Namespaces = append(w.Namespaces, v)
		case policy.Node:
			w.Nodes = append(w.Nodes, v)
		case policy.Pod:
			w.Pods = append(w.Pods, v)
		case policy.Service:
			w.Services = append(w.Services, v)
		case policy.EndpointSlice:
			w.Slices = append(w.Slices, v)
		case policy.Policy:
			w.Policies = append(w.Policies, v)
		}
	}
	return w
}

// unique leaves of objects with one name the first. Of NetworkPolicies the
// others stay too, but only as far as they restrict: they isolate what they
// select, and admit nobody. They go by a name that no NetworkPolicy can have.
func unique(objects []object) (kept []object, problems []api.Problem) {
	first := map[string]object{}
	for _, o := range objects {
		name := o.String()
		one, twice := first[name]
		if !twice {
			first[name] = o
			kept = append(kept, o)
			continue
		}
		text := fmt.Sprintf("in %s and again in %s: the first counts", one.place(), o.place())
		if p, ok := o.value.(policy.Policy); ok {
			text += ", the other isolates what it selects and admits nobody"
			p.Broken = text
			p.Ingress.Rules, p.Egress.Rules = nil, nil
			o.value = p
			o.rename(fmt.Sprintf("%s@%s#%d", o.name, o.file, o.doc))
			kept = append(kept, o)
		}
		problems = append(problems, api.Problem{Object: name, Message: text})
	}
	return kept, problems
}

// keep adds the NetworkPolicies that were in force, are withdrawn now, and whose
// namespace is terminating (E5), and arranges that a restart does not lose them.
func (t *tree) keep(objects []object) ([]object, []api.Problem) {
	terminating, here := map[string]bool{}, map[string]bool{}
	for _, o := range objects {
		if n, ok := o.value.(policy.Namespace); ok && n.Terminating {
			terminating[n.Name] = true
		}
		here[o.String()] = true
	}
	var problems []api.Problem
	kept := map[string]object{}
	for _, name := range slices.Sorted(maps.Keys(t.inForce)) {
		o := t.inForce[name]
		if here[name] || !terminating[o.namespace] {
			continue
		}
		kept[name] = o
		problems = append(problems, api.Problem{Object: name,
			Message: "withdrawn while its namespace is terminating: it stays until the namespace is gone"})
	}
	t.replaceKept(kept)
	t.remember(objects)
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		objects = append(objects, kept[name])
	}
	return objects, problems
}

// replaceKept notes which NetworkPolicies outlive their files.
func (t *tree) replaceKept(kept map[string]object) {
	for name, o := range t.kept {
		if _, still := kept[name]; !still {
			t.pending[keptName(o)] = nil
		}
	}
	for name, o := range kept {
		if _, already := t.kept[name]; already {
			continue
		}
		list, err := json.Marshal(header{APIVersion: policyVersion, Kind: policyKind + "List", Items: []json.RawMessage{o.raw}})
		if err == nil { // o.raw was JSON when it was parsed
			t.pending[keptName(o)] = list
		}
	}
	t.kept = kept
}

// keptName is the name under which Files keeps o.
func keptName(o object) string {
	sum := sha256.Sum256([]byte(o.String())) // names may be of any length and hold anything
	return keptPrefix + hex.EncodeToString(sum[:]) + ".json"
}
