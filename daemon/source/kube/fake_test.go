package kube

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// A memory is Files.
type memory struct {
	mu       sync.Mutex
	contents map[string][]byte
	writes   int
	fault    error
}

func newMemory() *memory { return &memory{contents: map[string][]byte{}} }

func (m *memory) EachFile(prefix string, visit func(string, []byte) error) error {
	m.mu.Lock()
	contents, fault := maps.Clone(m.contents), m.fault
	m.mu.Unlock()
	for name, content := range contents {
		if strings.HasPrefix(name, prefix) && fault == nil {
			fault = visit(name, content)
		}
	}
	return fault
}

func (m *memory) SaveFiles(contents map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault != nil {
		return m.fault
	}
	if len(contents) > 0 {
		m.writes++
	}
	for name, content := range contents {
		if content == nil {
			delete(m.contents, name)
		} else {
			m.contents[name] = content
		}
	}
	return nil
}

func (m *memory) has(names ...string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.contents[name] == nil {
			return false
		}
	}
	return true
}

// A desk is a ledger with the mirrors of a node, and nobody who fills them.
type desk struct {
	t *testing.T
	*ledger
	of      map[string]*mirror // by resource; host is that of pods in the node's network
	current policy.Snapshot    // of what was published
	last    source.Update
}

func newDesk(t *testing.T, files Files) *desk {
	t.Helper()
	d := &desk{t: t, ledger: newLedger(files, slog.New(slog.DiscardHandler)), of: map[string]*mirror{}}
	d.faults = func() []api.Problem { return nil }
	d.terminating = func(context.Context, string) (bool, error) { return false, nil }
	for _, k := range kinds("here") {
		m := d.mirror(k)
		name := k.resource
		if d.of[name] != nil {
			name = "host"
		}
		d.of[name] = m
	}
	return d
}

// list gives every mirror but those of the given resources an empty list.
func (d *desk) list(except ...string) {
	d.t.Helper()
	skip := map[string]bool{}
	for _, name := range except {
		skip[name] = true
	}
	for name, m := range d.of {
		if !skip[name] {
			d.must(m.Replace(nil, "1"))
		}
	}
}

func (d *desk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// take publishes, as run does beside keep, to what is current. It reports whether
// there was anything.
func (d *desk) take(late bool) bool {
	d.t.Helper()
	d.confirm(d.t.Context())
	d.saveFirst()
	return d.publish(late)
}

// publish is take before anything is stored.
func (d *desk) publish(late bool) bool {
	d.t.Helper()
	published := false
	d.next(late, func(u source.Update) {
		published, d.last = true, u
		if u.Whole {
			d.current = policy.Snapshot{}
		}
		d.current = apply(d.current, u.Change)
	})
	return published
}

// apply is what a Change makes of a Snapshot, without any index.
func apply(s policy.Snapshot, c policy.Change) policy.Snapshot {
	podName := func(p policy.Pod) policy.Name { return policy.Name{Namespace: p.Namespace, Name: p.Name} }
	s.Pods = replace(s.Pods, c.Set.Pods, c.Gone.Pods, podName)
	s.Namespaces = replace(s.Namespaces, c.Set.Namespaces, c.Gone.Namespaces, func(n policy.Namespace) string { return n.Name })
	var policies []policy.Name
	for _, r := range c.Gone.Policies {
		policies = append(policies, policy.Name{Namespace: r.Namespace, Name: r.Name})
	}
	s.Policies = replace(s.Policies, c.Set.Policies, policies, func(p policy.Policy) policy.Name {
		return policy.Name{Namespace: p.Ref.Namespace, Name: p.Ref.Name}
	})
	return s
}

func replace[T any, K comparable](old, set []T, gone []K, name func(T) K) []T {
	out := map[K]T{}
	for _, v := range append(append([]T{}, old...), set...) {
		out[name(v)] = v
	}
	for _, k := range gone {
		delete(out, k)
	}
	var list []T
	for v := range maps.Values(out) {
		list = append(list, v)
	}
	return list
}

// pods are those that are current, by name.
func (d *desk) pods() map[string]policy.Pod {
	out := map[string]policy.Pod{}
	for _, p := range d.current.Pods {
		out[p.Namespace+"/"+p.Name] = p
	}
	return out
}

// pod is shop/name at a version, with a label.
func pod(name string, version string, label string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-of-" + name),
		ResourceVersion: version, Labels: map[string]string{"is": label}}}
}

func namespace(name string, terminating bool) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if terminating {
		n.Status.Phase = corev1.NamespaceTerminating
	}
	return n
}

func read[T any](t testing.TB, text string) *T {
	t.Helper()
	var o T
	if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return &o
}
