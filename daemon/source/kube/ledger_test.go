package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// The clientsets and informers would double the daemon.
func TestDaemonIsSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/dynamic", "k8s.io/client-go/tools/record"} {
			if dep == heavy || strings.HasPrefix(dep, heavy+"/") {
				t.Errorf("the daemon depends on %s", dep)
			}
		}
	}
}

// Nothing is published before everything is known: half of it could open a pod.
func TestFirstIsWhole(t *testing.T) {
	for _, late := range []string{"namespaces", "networkpolicies", "pods", "host", "nodes", "services", "endpointslices"} {
		t.Run(late+" come last", func(t *testing.T) {
			d := newDesk(t, nil)
			d.list(late)
			if d.take(true) {
				t.Fatalf("published %+v", d.last)
			}
			d.must(d.of[late].Replace(nil, "1"))
			if !d.take(false) || !d.last.Whole || d.last.Unknown != "" {
				t.Errorf("then published %+v, want what is whole", d.last)
			}
			if d.take(false) {
				t.Errorf("published again, with nothing new: %+v", d.last)
			}
		})
	}
}

// While nothing is known it is said why, once for each reason.
func TestUnknown(t *testing.T) {
	d := newDesk(t, newMemory())
	fault := api.Problem{Object: "API server", Message: "connection refused"}
	d.faults = func() []api.Problem { return []api.Problem{fault} }
	if !d.take(false) || d.last.Unknown != "API server: connection refused" || !d.last.Whole {
		t.Errorf("published %+v", d.last)
	}
	if d.take(true) {
		t.Errorf("published %+v with nothing new", d.last)
	}
	fault.Message = "it does not accept the credentials"
	if !d.take(false) || !strings.Contains(d.last.Unknown, "credentials") {
		t.Errorf("published %+v", d.last)
	}
	d.faults = func() []api.Problem { return nil }
	d.list()
	if !d.take(false) || d.last.Unknown != "" || !d.last.Whole || len(d.last.Problems) > 0 {
		t.Errorf("published %+v", d.last)
	}
}

// Whatever a Reflector says in whatever pieces it is published: what is current is
// what the API server has, and nothing is ever missing between.
func TestHistory(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newDesk(t, nil)
		d.list()
		d.take(false)
		truth := map[string]*corev1.Pod{}
		always := pod("always", "1", "same")
		truth["always"] = always
		d.must(d.of["pods"].Add(always))
		d.take(false)
		for at := 2; at < 60; at++ {
			name, version := fmt.Sprintf("p%d", r.IntN(5)), fmt.Sprint(at)
			switch r.IntN(4) {
			case 0:
				if p := truth[name]; p != nil {
					delete(truth, name)
					p = p.DeepCopy()
					p.ResourceVersion = version
					d.must(d.of["pods"].Delete(p))
				}
			case 1: // the watch was lost: a list of everything
				var list []any
				for _, p := range truth {
					list = append(list, p)
				}
				d.must(d.of["pods"].Replace(list, version))
			default:
				truth[name] = pod(name, version, fmt.Sprint(r.IntN(2)))
				d.must(d.of["pods"].Update(truth[name]))
			}
			if r.IntN(2) == 0 {
				d.take(false)
				if d.last.Whole && at > 2 || slices.Contains(d.last.Gone.Pods, policy.Name{Namespace: "shop", Name: "always"}) {
					t.Fatalf("seed %d: published %+v", seed, d.last)
				}
			}
		}
		d.take(false)
		want := map[string]policy.Pod{}
		for name, p := range truth {
			i, err := d.of["pods"].read(p)
			d.must(err)
			want["shop/"+name] = i.value.(policy.Pod)
		}
		if got := d.pods(); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: current is %v, want %v", seed, got, want)
		}
	}
}

// What says nothing to policy is not news.
func TestHeartbeats(t *testing.T) {
	d := newDesk(t, nil)
	d.must(d.of["pods"].Add(pod("web", "1", "a")))
	d.list("pods")
	d.must(d.of["pods"].Replace([]any{pod("web", "1", "a")}, "1"))
	d.take(false)
	p := pod("web", "2", "a")
	p.Status.Phase, p.Annotations = corev1.PodRunning, map[string]string{"note": "x"}
	d.must(d.of["pods"].Update(p))
	if d.take(false) {
		t.Errorf("published %+v", d.last)
	}
}

// A pod that ADD asked for is ahead of the watch: older news of it are old.
func TestAhead(t *testing.T) {
	uid := "uid-of-web"
	never := func(cause any) error { return fmt.Errorf("not learned: %v", cause) }
	tests := []struct {
		name string
		news func(*desk) error // that is older than what was asked for
		want string
	}{
		{"the pod before it, deleted", func(d *desk) error { return d.of["pods"].Delete(pod("web", "4", "old")) }, "new"},
		{"an older state", func(d *desk) error { return d.of["pods"].Update(pod("web", "4", "old")) }, "new"},
		{"an older list", func(d *desk) error { return d.of["pods"].Replace(nil, "4") }, "new"},
		{"an older list with an older state", func(d *desk) error { return d.of["pods"].Replace([]any{pod("web", "3", "old")}, "4") }, "new"},
		{"a newer state", func(d *desk) error { return d.of["pods"].Update(pod("web", "6", "newer")) }, "newer"},
		{"deleted", func(d *desk) error { return d.of["pods"].Delete(pod("web", "6", "new")) }, ""},
		{"a newer list without it", func(d *desk) error { return d.of["pods"].Replace(nil, "6") }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			d.list()
			d.must(d.of["pods"].Add(pod("web", "2", "old")))
			d.take(false)
			if _, err := d.learn(pod("web", "5", "new"), uid, never); err != nil {
				t.Fatal(err)
			}
			d.must(tt.news(d))
			d.take(false)
			if got := d.pods()["shop/web"].Labels["is"]; got != tt.want {
				t.Errorf("the pod's label is %q, want %q", got, tt.want)
			}
		})
	}
}

// The answer to a question may come later than the watch's news of the same object.
func TestBehind(t *testing.T) {
	d := newDesk(t, nil)
	d.list()
	d.must(d.of["pods"].Add(pod("web", "6", "newer")))
	never := func(cause any) error { return fmt.Errorf("not learned: %v", cause) }
	if _, err := d.learn(pod("web", "5", "new"), "uid-of-web", never); err != nil {
		t.Fatal(err)
	}
	if d.take(false); d.pods()["shop/web"].Labels["is"] != "newer" {
		t.Errorf("the pod is %+v, want its newer state", d.pods()["shop/web"])
	}
}

// A pod may be followed by one of its name in the other stream, in any order of the
// two streams' news.
func TestTwins(t *testing.T) {
	regular := func(version string) *corev1.Pod { return pod("web", version, "regular") }
	host := func(version string) *corev1.Pod {
		p := pod("web", version, "host")
		p.Spec.HostNetwork = true
		return p
	}
	for _, tt := range []struct {
		name string
		news func(d *desk) []error
		want string
	}{
		{"regular after host, in order", func(d *desk) []error {
			return []error{d.of["host"].Add(host("1")), d.of["host"].Delete(host("2")), d.of["pods"].Add(regular("3"))}
		}, "regular"},
		{"regular after host, overtaking", func(d *desk) []error {
			return []error{d.of["host"].Add(host("1")), d.of["pods"].Add(regular("3")), d.of["host"].Delete(host("2"))}
		}, "regular"},
		{"host after regular, overtaking", func(d *desk) []error {
			return []error{d.of["pods"].Add(regular("1")), d.of["host"].Add(host("4")), d.of["pods"].Update(pod("web", "2", "late")), d.of["pods"].Delete(regular("3"))}
		}, "host"},
		{"both gone", func(d *desk) []error {
			return []error{d.of["pods"].Add(regular("1")), d.of["host"].Add(host("4")), d.of["host"].Delete(host("5")), d.of["pods"].Delete(regular("3"))}
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			d.list()
			d.take(false)
			for _, err := range tt.news(d) {
				d.must(err)
			}
			d.take(false)
			if got := d.pods()["shop/web"].Labels["is"]; got != tt.want {
				t.Errorf("the pod is %q, want %q", got, tt.want)
			}
		})
	}
}

// A policy that is withdrawn stays while its namespace is terminating, also where
// only the API server knows that yet, or nobody can say.
func TestWithdrawn(t *testing.T) {
	p := read[netv1.NetworkPolicy](t, `{metadata: {namespace: shop, name: web}, spec: {podSelector: {}}}`)
	away := errors.New("connection refused")
	for _, tt := range []struct {
		name  string
		seen  bool // terminating, by the stream of namespaces
		is    bool // terminating, by the API server
		fault error
		stays bool
	}{
		{"it goes", false, false, nil, false},
		{"its namespace is terminating", true, true, nil, true},
		{"its namespace is terminating, and its stream is late", false, true, nil, true},
		{"the API server can't be asked", false, false, away, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, nil)
			d.terminating = func(context.Context, string) (bool, error) { return tt.is, tt.fault }
			d.list()
			d.must(d.of["networkpolicies"].Add(p))
			d.must(d.of["namespaces"].Add(namespace("shop", tt.seen)))
			d.take(false)
			d.must(d.of["networkpolicies"].Replace(nil, "9"))
			d.take(false)
			if got := len(d.current.Policies) > 0; got != tt.stays {
				t.Fatalf("the policy stays: %v, want %v", got, tt.stays)
			}
			// Then the namespace is gone.
			d.terminating = func(context.Context, string) (bool, error) { return false, nil }
			d.asked = d.asked.Add(-confirmAgain)
			d.must(d.of["namespaces"].Delete(namespace("shop", true)))
			d.take(false)
			if len(d.current.Policies) > 0 {
				t.Error("its namespace is gone, and it is not")
			}
		})
	}
	t.Run("it comes back", func(t *testing.T) {
		d := newDesk(t, nil)
		d.terminating = func(context.Context, string) (bool, error) { return false, away }
		d.list()
		d.must(d.of["networkpolicies"].Add(p))
		d.take(false)
		d.must(d.of["networkpolicies"].Delete(p))
		d.take(false)
		d.must(d.of["networkpolicies"].Add(p))
		d.terminating = func(context.Context, string) (bool, error) { return false, nil }
		d.asked = d.asked.Add(-confirmAgain)
		if d.take(false); len(d.current.Policies) != 1 {
			t.Error("it is gone")
		}
	})
}

// An object that is none of its kind is an error, and changes nothing.
func TestWrongObjects(t *testing.T) {
	d := newDesk(t, nil)
	d.list()
	d.must(d.of["pods"].Add(pod("web", "1", "a")))
	for _, o := range []any{nil, "web", 7, &corev1.Service{}, &corev1.Pod{}, &corev1.PodList{}} {
		m := d.of["pods"]
		for name, err := range map[string]error{"Add": m.Add(o), "Update": m.Update(o), "Delete": m.Delete(o), "Replace": m.Replace([]any{o}, "2")} {
			if err == nil {
				t.Errorf("%s of %#v: no error", name, o)
			}
		}
	}
	if d.take(false); len(d.current.Pods) != 1 {
		t.Errorf("pods %v", d.current.Pods)
	}
}

// A world that is read in many pieces is published in pieces that don't count until
// the last, and none of them is large.
func TestParts(t *testing.T) {
	d := newDesk(t, newMemory())
	d.list("pods")
	m := d.of["pods"]
	take := m.Transformer()
	var names []any
	for i := range 2*part + 10 {
		one, err := take(pod(fmt.Sprintf("web-%d", i), "1", "a"))
		d.must(err)
		names = append(names, one)
		if !d.take(false) {
			continue
		}
		if n := len(d.last.Set.Pods); d.last.Unknown == "" || n != part || d.last.Whole != (i < part) {
			t.Fatalf("after %d pods %d are published, whole: %v, unknown: %q", i, n, d.last.Whole, d.last.Unknown)
		}
	}
	gone := names[0].(stub)
	d.must(m.Replace(names[1:], "2"))
	if !d.take(false) || d.last.Whole || d.last.Unknown != "" || len(d.last.Set.Pods) != 10 || !slices.Equal(d.last.Gone.Pods, []policy.Name{gone.Name}) {
		t.Errorf("the rest is published as %d pods, gone %v, whole: %v, unknown: %q", len(d.last.Set.Pods), d.last.Gone.Pods, d.last.Whole, d.last.Unknown)
	}
	if n := len(d.current.Pods); n != 2*part+9 {
		t.Errorf("%d pods are current, want %d", n, 2*part+9)
	}
}

// The API server has time while it is heard, but not for ever.
func TestPatience(t *testing.T) {
	d := newDesk(t, newMemory())
	start := time.Now()
	for _, tt := range []struct {
		after, quiet time.Duration
		want         bool
	}{
		{4 * time.Second, 4 * time.Second, false},
		{5 * time.Second, 5 * time.Second, true},
		{20 * time.Second, time.Second, false},
		{20 * time.Second, 5 * time.Second, true},
		{30 * time.Second, 0, true},
	} {
		d.listing = start.Add(tt.after - tt.quiet)
		if got := d.late(start, start.Add(tt.after)); got != tt.want {
			t.Errorf("%s after the start, with nothing heard for %s: late is %v", tt.after, tt.quiet, got)
		}
	}
}

// A UUID comes back as it was written; of another UID it is known whether it is the
// same.
func TestUID(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"01234567-89ab-4def-8123-456789abcdef", "01234567-89ab-4def-8123-456789abcdef"},
		{"01234567-89AB-4DEF-8123-456789ABCDEF", ""},
		{"0123456789ab4def8123456789abcdef", ""},
		{"01234567-89ab-0def-8123-456789abcdef", ""},
		{"u", ""},
	} {
		u := uidOf(tt.text)
		if got := u.String(); got != tt.want || u != uidOf(strings.Clone(tt.text)) || (u == uid{}) != (tt.text == "") {
			t.Errorf("uid of %q is %x, text %q, want %q", tt.text, u[:], got, tt.want)
		}
	}
}

// A problem of an object is one for as long as the object has it.
func TestProblems(t *testing.T) {
	d := newDesk(t, nil)
	d.list()
	p := read[netv1.NetworkPolicy](t, `{metadata: {namespace: shop, name: bad}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}}`)
	d.must(d.of["networkpolicies"].Add(p))
	for i := range 2 * mostProblems {
		w := pod(fmt.Sprintf("wish-%03d", i), "1", "a")
		w.Annotations = map[string]string{"podwall.io/raw-sockets": "please"}
		d.must(d.of["pods"].Add(w))
	}
	d.take(false)
	if n := len(d.last.Problems); n != mostProblems+1 || d.last.Problems[0].Field != "spec.ingress[0].from[0].ipBlock.cidr" ||
		!strings.Contains(d.last.Problems[n-1].Message, "101 more") {
		t.Errorf("%d problems: first %v, last %v", n, d.last.Problems[0], d.last.Problems[n-1])
	}
	if q := d.current.Policies[0]; q.Broken == "" || !q.Ingress.Applies || len(q.Ingress.Rules) > 0 {
		t.Errorf("the policy is %+v, want one that isolates and admits nobody", q)
	}
	p.Spec.Ingress = nil
	d.must(d.of["networkpolicies"].Update(p))
	d.must(d.of["pods"].Replace(nil, "2"))
	if d.take(false); len(d.last.Problems) > 0 {
		t.Errorf("problems that are gone: %v", d.last.Problems)
	}
}

// No bytes make a reader panic, and the same object twice is the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","uid":"c","labels":{"x":"y"}},"status":{"podIPs":[{"ip":"10.0.0.1"}]}}`))
	f.Add([]byte(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"a","namespace":"b"},"spec":{"podSelector":{},"ingress":[{}]}}`))
	f.Add([]byte("k8s\x00\n\x09\n\x02v1\x12\x03Pod\x12\x05\n\x03\n\x01a"))
	decoder := newCodecs().UniversalDeserializer()
	all := kinds("here")
	f.Fuzz(func(t *testing.T, data []byte) {
		o, _, err := decoder.Decode(data, nil, nil)
		if err != nil {
			return
		}
		for _, k := range all {
			one, err := k.read(o)
			if err != nil {
				continue
			}
			two, err := k.read(o.DeepCopyObject())
			if err != nil || one.sum != two.sum {
				t.Errorf("read twice: %v, sums %d and %d", err, one.sum, two.sum)
			}
		}
	})
}
