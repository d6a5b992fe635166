package kube

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podwall/podwall/internal/policy"
)

// everything is one object of each kind with all that policy makes of it.
func everything(t *testing.T) map[string]runtime.Object {
	return map[string]runtime.Object{
		"namespaces": read[corev1.Namespace](t, `{metadata: {name: shop, uid: n, labels: {team: blue}}}`),
		"networkpolicies": read[netv1.NetworkPolicy](t, `
metadata: {namespace: shop, name: web, uid: p}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: NotIn, values: [a, b]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: fe}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: "fd00::/8"}}]
    ports: [{port: 80}, {port: http, protocol: TCP}, {port: 8000, endPort: 8010, protocol: UDP}]
  - {}
  egress:
  - to: [{podSelector: {}}]
`),
		"pods": read[corev1.Pod](t, `
metadata: {namespace: shop, name: web, uid: u, labels: {app: web}, annotations: {podwall.io/raw-sockets: allow}}
spec: {nodeName: here, runtimeClassName: kata, containers: [{name: c, ports: [{name: http, containerPort: 80}], securityContext: {privileged: true}}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
`),
		"host":  read[corev1.Pod](t, `{metadata: {namespace: shop, name: agent, uid: h}, spec: {hostNetwork: true, nodeName: here, containers: [{name: c}]}, status: {podIP: 192.0.2.1}}`),
		"nodes": read[corev1.Node](t, `{metadata: {name: here, uid: o, labels: {zone: a}}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}`),
		"services": read[corev1.Service](t, `
metadata: {namespace: shop, name: web, uid: s}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd96::1"], ports: [{name: http, port: 80, nodePort: 30080}]}
`),
		"endpointslices": read[discoveryv1.EndpointSlice](t, `
metadata: {namespace: shop, name: web-1, uid: e, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}, {addresses: [10.0.0.2], conditions: {ready: false}}]
`),
	}
}

// stocked is a desk with everything, all of it published and stored.
func stocked(t *testing.T, files Files) *desk {
	t.Helper()
	d := newDesk(t, files)
	for resource, o := range everything(t) {
		d.must(d.of[resource].Replace([]any{o}, "1"))
	}
	if !d.take(false) || !d.last.Whole {
		t.Fatalf("published %+v", d.last)
	}
	d.save(anything, 0)
	if d.stamp(time.Time{}).IsZero() {
		t.Fatal("not all is stored")
	}
	return d
}

// What is stored comes back as it was, and is in force once nothing better is to be
// had. What the API server says then is compared with it.
func TestRestore(t *testing.T) {
	files := newMemory()
	first := stocked(t, files)
	d := newDesk(t, files)
	d.restore()
	if d.take(false) {
		t.Fatalf("published %+v without having waited for the API server", d.last)
	}
	if !d.take(true) || !d.last.Whole || d.last.Unknown != "" {
		t.Fatalf("published %+v", d.last)
	}
	if !reflect.DeepEqual(sorted(d.last.Set), sorted(first.last.Set)) {
		t.Errorf("restored %+v\nstored %+v", d.last.Set, first.last.Set)
	}
	if len(d.last.Problems) != 1 || !strings.Contains(d.last.Problems[0].Message, "not read since podwalld started") {
		t.Errorf("problems %v", d.last.Problems)
	}
	if _, ok := d.knows(policy.Name{Namespace: "shop", Name: "web"}, "u"); !ok {
		t.Error("the pod's UID is not known")
	}
	for resource, o := range everything(t) {
		d.must(d.of[resource].Replace([]any{o}, "1"))
	}
	if d.take(false); d.last.Whole || !reflect.DeepEqual(d.last.Change, policy.Change{}) || len(d.last.Problems) > 0 {
		t.Errorf("the same from the API server is published as %+v", d.last)
	}
	if !d.from().IsZero() {
		t.Error("it still says that what is in force is from before")
	}
}

// A policy that was withdrawn while podwalld did not run stays while its namespace is
// terminating, as if it had run, and is gone with it.
func TestWithdrawnMeanwhile(t *testing.T) {
	files := newMemory()
	stocked(t, files)
	const file = ".kube/1/NetworkPolicy/shop/web"
	for _, terminating := range []bool{true, false} {
		d := newDesk(t, files)
		d.terminating = func(context.Context, string) (bool, error) { return terminating, nil }
		d.restore()
		for resource, o := range everything(t) {
			if resource != "networkpolicies" {
				d.must(d.of[resource].Replace([]any{o}, "1"))
			}
		}
		if d.take(true); !d.last.Whole || len(d.current.Pods) != 2 || len(d.current.Policies) != 1 {
			t.Fatalf("without the API server's policies what is in force is %+v", d.current)
		}
		d = newDesk(t, files)
		d.terminating = func(context.Context, string) (bool, error) { return terminating, nil }
		d.restore()
		for resource, o := range everything(t) {
			if resource != "networkpolicies" {
				d.must(d.of[resource].Replace([]any{o}, "1"))
			}
		}
		d.must(d.of["networkpolicies"].Replace(nil, "2"))
		d.take(false)
		d.save(anything, 0)
		if n := len(d.current.Policies); (n == 1) != terminating || files.has(file) != terminating || len(d.current.Pods) != 2 {
			t.Errorf("terminating: %v: %d policies are in force, stored: %v, %d pods", terminating, n, files.has(file), len(d.current.Pods))
		}
	}
}

// What is read again after a restart and is the same is not written again, and what
// does not exist any more is not stored.
func TestRestartWritesDifferences(t *testing.T) {
	files := newMemory()
	stocked(t, files)
	writes := files.writes
	d := newDesk(t, files)
	d.restore()
	for resource, o := range everything(t) {
		if resource != "services" {
			d.must(d.of[resource].Replace([]any{o}, "1"))
		}
	}
	d.must(d.of["services"].Replace(nil, "1"))
	if !d.take(false) || !d.last.Whole || len(d.last.Set.Pods) != 2 || len(d.last.Set.Services) != 0 || len(d.last.Set.Policies) != 1 {
		t.Errorf("published %+v", d.last)
	}
	if d.save(anything, 0); files.writes != writes+1 || files.has(".kube/1/Service/shop/web") || !files.has(".kube/1/Pod/shop/web") {
		t.Errorf("%d writes, want 1: that the Service is gone", files.writes-writes)
	}
}

// sorted is s with its pods in order; of the other kinds there is one each.
func sorted(s policy.Snapshot) policy.Snapshot {
	if len(s.Pods) == 2 && s.Pods[0].Name > s.Pods[1].Name {
		s.Pods = []policy.Pod{s.Pods[1], s.Pods[0]}
	}
	return s
}

// A world that can't be relied on is none: not enough would be closed by it.
func TestRestoreDamaged(t *testing.T) {
	for name, spoil := range map[string]func(map[string][]byte){
		"it was never stored to its end":  func(c map[string][]byte) { delete(c, complete) },
		"the stamp is no stamp":           func(c map[string][]byte) { c[complete] = []byte("yes") },
		"a policy is no JSON":             func(c map[string][]byte) { c[".kube/1/NetworkPolicy/shop/web"] = []byte("{") },
		"a policy is another kind's":      func(c map[string][]byte) { c[".kube/1/NetworkPolicy/shop/web"] = []byte(`{"object": []}`) },
		"a pod has an address that isn't": func(c map[string][]byte) { c[".kube/1/Pod/shop/web"] = []byte(`{"object": {"Addresses": ["x"]}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			files := newMemory()
			stocked(t, files)
			spoil(files.contents)
			d := newDesk(t, files)
			d.restore()
			if d.take(true) {
				t.Fatalf("published %+v", d.last)
			}
			d.list()
			if !d.take(false) || !reflect.DeepEqual(d.last.Set, policy.Snapshot{}) {
				t.Errorf("published %+v, want what the API server says: nothing", d.last)
			}
			d.save(anything, 0)
			for name := range files.contents {
				if name != complete {
					t.Errorf("%s is left", name)
				}
			}
		})
	}
	t.Run("the store can't be read", func(t *testing.T) {
		files := newMemory()
		files.fault = errors.New("input/output error")
		d := newDesk(t, files)
		if d.restore(); d.take(true) {
			t.Errorf("published %+v", d.last)
		}
	})
}

// Policies and namespaces are stored before they are in force, the rest in batches.
func TestSaving(t *testing.T) {
	files := newMemory()
	d := stocked(t, files)
	writes := files.writes
	d.must(d.of["networkpolicies"].Replace(nil, "2"))
	for i := range 3 * batch {
		d.must(d.of["pods"].Add(pod(fmt.Sprint("p", i), "2", "a")))
	}
	d.take(false)
	if files.has(".kube/1/NetworkPolicy/shop/web") {
		t.Error("the policy is not in force any more, and is stored")
	}
	if n := files.writes - writes; n != 1 {
		t.Errorf("%d transactions before it was published, want 1", n)
	}
	if n := d.save(anything, batch); n != batch {
		t.Errorf("a batch of %d, want %d", n, batch)
	}
	if last := time.Now(); d.stamp(last) != last {
		t.Error("stamped with pods that are not stored")
	}
}

// While a disk takes its time the policies and namespaces wait for it, and nothing
// else does: a pod of another node is a peer at once.
func TestOnlyPoliciesWaitForTheDisk(t *testing.T) {
	files := newMemory()
	d := stocked(t, files)
	d.must(d.of["networkpolicies"].Replace(nil, "2"))
	if d.confirm(t.Context()); d.publish(false) {
		t.Errorf("published %+v, which is not stored", d.last)
	}
	for _, name := range []string{"first", "second"} {
		d.must(d.of["pods"].Add(pod(name, "3", "a")))
		d.publish(false)
		if _, ok := d.pods()["shop/"+name]; !ok {
			t.Errorf("the %s pod waits", name)
		}
	}
	d.must(d.of["namespaces"].Add(namespace("new", false)))
	early := pod("early", "3", "a")
	early.Namespace = "new"
	d.must(d.of["pods"].Add(early))
	d.must(d.of["pods"].Delete(pod("first", "4", "a")))
	d.publish(false)
	if _, ok := d.pods()["new/early"]; ok {
		t.Error("a pod is there before the labels of its namespace")
	}
	if _, ok := d.pods()["shop/first"]; ok {
		t.Error("the going of a pod waits")
	}
	if len(d.current.Policies) != 1 {
		t.Errorf("%d policies are in force, want 1 until it is stored that it is gone", len(d.current.Policies))
	}
	select {
	case <-d.urgent:
	default:
		t.Error("nobody is asked to store it")
	}
	d.saveFirst()
	if d.publish(false); len(d.current.Policies) != 0 {
		t.Error("the policy is still in force")
	}
	if _, ok := d.pods()["new/early"]; !ok {
		t.Error("the pod waits on")
	}
}

// A slow disk calls meanwhile each time something is written to it.
type slow struct {
	*memory
	meanwhile func(contents map[string][]byte)
}

func (s *slow) SaveFiles(contents map[string][]byte) error {
	s.meanwhile(contents)
	return s.memory.SaveFiles(contents)
}

// A policy that comes while many batches are stored waits for one of them, not for
// all.
func TestPolicyGoesBetweenBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &slow{memory: newMemory(), meanwhile: func(map[string][]byte) {}}
		d := stocked(t, files)
		for i := range 5 * batch {
			d.must(d.of["pods"].Add(pod(fmt.Sprint("p", i), "2", "a")))
		}
		turn, at := 0, 0
		files.meanwhile = func(contents map[string][]byte) {
			if turn++; turn == 1 {
				d.must(d.of["networkpolicies"].Replace(nil, "2"))
				d.confirm(t.Context())
			}
			if _, ok := contents[".kube/1/NetworkPolicy/shop/web"]; ok {
				at = turn
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.keep(ctx) }()
		time.Sleep(2 * keepEvery)
		cancel()
		d.must(<-ended)
		if at != 2 || turn < 6 {
			t.Errorf("the policy was in write %d of %d, want the second of more than five", at, turn)
		}
	})
}

// What can't be stored is said, and stored when it can.
func TestFullDisk(t *testing.T) {
	files := newMemory()
	d := stocked(t, files)
	files.fault = errors.New("no space left on device")
	d.must(d.of["networkpolicies"].Replace(nil, "2"))
	d.take(false)
	if d.take(false); len(d.last.Problems) != 1 || !strings.Contains(d.last.Problems[0].Message, "no space left on device") {
		t.Errorf("problems %v", d.last.Problems)
	}
	if len(d.current.Policies) > 0 {
		t.Error("what can't be stored is not in force")
	}
	files.fault = nil
	d.saveFirst()
	if d.take(false); len(d.last.Problems) > 0 || files.has(".kube/1/NetworkPolicy/shop/web") {
		t.Errorf("problems %v; the store has %d", d.last.Problems, len(files.contents))
	}
}
