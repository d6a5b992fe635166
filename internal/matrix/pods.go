package matrix

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
)

// Pods is the pods of w in these namespaces, or in all if none are named, in the
// order of their names. Those that have ended have no network, and are left out.
// A namespace without pods is an error that suggests what was perhaps meant.
func Pods(w *policy.World, namespaces []string) ([]policy.Pod, error) {
	var pods []policy.Pod
	known := map[string]bool{}
	for p := range w.Pods() {
		known[p.Namespace] = true
		if !p.Done && (len(namespaces) == 0 || slices.Contains(namespaces, p.Namespace)) {
			pods = append(pods, p)
		}
	}
	for _, n := range namespaces {
		if !known[n] {
			return nil, noPods(n, known)
		}
	}
	slices.SortFunc(pods, func(a, b policy.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return pods, nil
}

func noPods(namespace string, known map[string]bool) error {
	var names []string
	for n := range known {
		names = append(names, n)
	}
	if near := explain.Near(namespace, names); len(near) > 0 {
		return fmt.Errorf("namespace %s: no pod there; did you mean %s?", namespace, strings.Join(near, " or "))
	}
	return fmt.Errorf("namespace %s: no pod there", namespace)
}
