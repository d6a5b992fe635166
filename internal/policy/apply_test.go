package policy_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A history is a cluster that changes at random, and says so in Changes.
type history struct {
	world
	namespaces map[string]policy.Namespace
	nodes      map[string]policy.Node
	pods       map[policy.Name]policy.Pod
	services   map[policy.Name]policy.Service
	slices     map[policy.Name]policy.EndpointSlice
	policies   map[ruleset.Ref]policy.Policy
}

func newHistory(r world) *history {
	return &history{r, map[string]policy.Namespace{}, map[string]policy.Node{}, map[policy.Name]policy.Pod{},
		map[policy.Name]policy.Service{}, map[policy.Name]policy.EndpointSlice{}, map[ruleset.Ref]policy.Policy{}}
}

func (h *history) snapshot() policy.Snapshot {
	s := policy.Snapshot{
		Namespaces: slices.Collect(maps.Values(h.namespaces)), Nodes: slices.Collect(maps.Values(h.nodes)),
		Pods: slices.Collect(maps.Values(h.pods)), Services: slices.Collect(maps.Values(h.services)),
		Slices: slices.Collect(maps.Values(h.slices)), Policies: slices.Collect(maps.Values(h.policies)),
	}
	h.shuffle(&s)
	return s
}

// step is one Change of up to n objects, which h has made.
func (h *history) step(n int) policy.Change {
	var c policy.Change
	for range 1 + h.IntN(n) {
		switch h.IntN(11) {
		case 0: // labels of a namespace, and whether it is terminating (E5, E8)
			ns := policy.Namespace{Name: h.namespaceName(), Labels: h.labels(), Terminating: h.chance(30)}
			h.namespaces[ns.Name] = ns
			if c.Gone.Namespaces = deleted(c.Gone.Namespaces, ns.Name); true {
				c.Set.Namespaces = append(c.Set.Namespaces, ns)
			}
		case 1:
			name := h.namespaceName()
			delete(h.namespaces, name)
			c.Set.Namespaces = slices.DeleteFunc(c.Set.Namespaces, func(n policy.Namespace) bool { return n.Name == name })
			c.Gone.Namespaces = append(c.Gone.Namespaces, name)
		case 2, 3, 4: // new, re-created (E2), relabelled (E8), with other addresses or ports (E3, E12), done (E3)
			p := h.anyPod()
			name := policy.Name{Namespace: p.Namespace, Name: p.Name}
			h.pods[name] = p
			c.Gone.Pods = deleted(c.Gone.Pods, name)
			c.Set.Pods = append(slices.DeleteFunc(c.Set.Pods, func(q policy.Pod) bool { return policy.Name{Namespace: q.Namespace, Name: q.Name} == name }), p)
		case 5:
			name := policy.Name{Namespace: h.namespaceName(), Name: fmt.Sprint("pod-", 1+h.IntN(9))}
			delete(h.pods, name)
			c.Set.Pods = slices.DeleteFunc(c.Set.Pods, func(q policy.Pod) bool { return policy.Name{Namespace: q.Namespace, Name: q.Name} == name })
			c.Gone.Pods = append(c.Gone.Pods, name)
		case 6: // Services and what is behind them (E14)
			svc, slice := h.service(h.IntN(4))
			name := policy.Name{Namespace: svc.Namespace, Name: svc.Name}
			if h.chance(70) {
				h.services[name] = svc
				c.Gone.Services = deleted(c.Gone.Services, name)
				c.Set.Services = append(slices.DeleteFunc(c.Set.Services, func(s policy.Service) bool { return s.Name == svc.Name }), svc)
			}
			slice.Name += pick(h.world, "", "-b")
			at := policy.Name{Namespace: slice.Namespace, Name: slice.Name}
			h.slices[at] = slice
			c.Gone.Slices = deleted(c.Gone.Slices, at)
			c.Set.Slices = append(slices.DeleteFunc(c.Set.Slices, func(s policy.EndpointSlice) bool { return s.Name == slice.Name }), slice)
		case 7:
			name := policy.Name{Namespace: "shop", Name: fmt.Sprint("service-", h.IntN(4))}
			if h.chance(50) {
				delete(h.services, name)
				c.Set.Services = slices.DeleteFunc(c.Set.Services, func(s policy.Service) bool { return s.Name == name.Name })
				c.Gone.Services = append(c.Gone.Services, name)
				continue
			}
			name.Name += pick(h.world, "", "-b")
			delete(h.slices, name)
			c.Set.Slices = slices.DeleteFunc(c.Set.Slices, func(s policy.EndpointSlice) bool { return s.Name == name.Name })
			c.Gone.Slices = append(c.Gone.Slices, name)
		case 8: // a node's addresses (E19)
			n := policy.Node{Name: pick(h.world, "own", "other", "third"), Addresses: some(h.world, 2, h.addr)}
			if h.chance(30) {
				delete(h.nodes, n.Name)
				c.Set.Nodes = slices.DeleteFunc(c.Set.Nodes, func(m policy.Node) bool { return m.Name == n.Name })
				c.Gone.Nodes = append(c.Gone.Nodes, n.Name)
				continue
			}
			h.nodes[n.Name] = n
			c.Gone.Nodes = deleted(c.Gone.Nodes, n.Name)
			c.Set.Nodes = append(slices.DeleteFunc(c.Set.Nodes, func(m policy.Node) bool { return m.Name == n.Name }), n)
		case 9:
			for _, p := range h.world.policies(policy.Admin, policy.Standard, policy.Standard, policy.Standard, policy.Baseline) {
				h.policies[p.Ref] = p
				c.Gone.Policies = deleted(c.Gone.Policies, p.Ref)
				c.Set.Policies = append(slices.DeleteFunc(c.Set.Policies, func(q policy.Policy) bool { return q.Ref == p.Ref }), p)
			}
		case 10:
			for ref := range h.policies {
				if h.chance(30) {
					delete(h.policies, ref)
					c.Set.Policies = slices.DeleteFunc(c.Set.Policies, func(q policy.Policy) bool { return q.Ref == ref })
					c.Gone.Policies = append(c.Gone.Policies, ref)
				}
			}
		}
	}
	return c
}

func deleted[T comparable](list []T, item T) []T {
	return slices.DeleteFunc(list, func(t T) bool { return t == item })
}

// anyPod is one that is new, or an old one with other contents. Its addresses may
// be another pod's.
func (h *history) anyPod() policy.Pod {
	p := h.pod(1 + h.IntN(9))
	if old, ok := h.pods[policy.Name{Namespace: p.Namespace, Name: p.Name}]; ok && h.chance(70) {
		switch was := old; h.IntN(5) {
		case 0:
			was.Labels, p = p.Labels, was
		case 1:
			was.Ports, p = p.Ports, was
		case 2:
			was.Done, p = !was.Done, was
		case 3:
			was.HostNetwork, p = !was.HostNetwork, was
		}
	}
	if h.chance(20) {
		p.Addresses = some(h.world, 3, h.addr)
	}
	return p
}

// After any history a World says what a new one says of the same objects, to
// everybody who asked before and to those who ask anew; and what it calls
// unchanged is.
func TestApplyMeansWhatNewMeans(t *testing.T) {
	r := world{random(t)}
	kept := 0
	for range 150 {
		h := newHistory(r)
		w := policy.New(h.snapshot())
		targets, last := make([]policy.Target, 5), make([]*policy.Firewall, 5)
		for i := range targets {
			w.Apply(h.step(8))
			targets[i] = r.target(policy.Snapshot{Pods: []policy.Pod{r.pod(1 + i)}})
		}
		for range 25 {
			for range 1 + r.IntN(2) {
				w.Apply(h.step(3))
			}
			fresh := policy.New(h.snapshot())
			if r.chance(30) {
				w.Keep(slices.Values(last[:r.IntN(len(last))]))
			}
			for i := range targets {
				if r.chance(20) {
					continue // asks again later
				}
				if r.chance(10) {
					targets[i] = r.target(policy.Snapshot{Pods: []policy.Pod{h.anyPod()}})
				}
				f := w.Firewall(targets[i], last[i])
				if f == last[i] {
					kept++
				}
				last[i] = f
				if want := fresh.Compile(targets[i]); !reflect.DeepEqual(f.Rules, want) {
					t.Fatalf("after %+v\nthe rules of %+v are\n%+v, want\n%+v", h.snapshot(), targets[i], f.Rules, want)
				}
			}
			h.compare(t, w, fresh)
		}
		h.replace(t, w)
	}
	if kept < 1000 {
		t.Errorf("only %d firewalls were kept: this proves little", kept)
	}
}

// A Firewall says by itself what it no longer holds for.
func TestKeepForgetsOnlyWhatItIsNotToldOf(t *testing.T) {
	web, db := newPod("shop/web", "10.0.0.1"), newPod("bank/db", "10.0.0.2")
	w := policy.New(policy.Snapshot{Pods: []policy.Pod{web, db}, Policies: []policy.Policy{
		standard("web", side(rule(inShop("fe"), anyPort)), policy.Side{}),
	}})
	of := func(p policy.Pod, last *policy.Firewall) *policy.Firewall {
		return w.Firewall(policy.Target{Pod: p, Addresses: p.Addresses}, last)
	}
	webs, dbs := of(web, nil), of(db, nil)
	w.Keep(slices.Values([]*policy.Firewall{dbs, nil}))
	if of(db, dbs) != dbs {
		t.Error("what Keep was told of was forgotten")
	}
	w.Apply(policy.Change{Set: policy.Snapshot{Pods: []policy.Pod{newPod("shop/fe", "10.0.0.3")}}})
	if got := of(web, webs).Rules; !got.Ingress.Tiers[0].Rules[0].Matches[0].Peers.Contains(netip.MustParseAddr("10.0.0.3")) {
		t.Errorf("rules that Keep was not told of are the old ones: %+v", got)
	}
	if of(db, dbs) != dbs {
		t.Error("a pod that nothing selects has other rules since another pod came")
	}
}

// What a Change does not touch keeps its Firewall: a pod that comes or goes, its
// endpoints and its labels are no matter to those whose rules don't know it.
func TestApplyTouchesOnlyWhatItMust(t *testing.T) {
	s := cluster()
	s.Policies = []policy.Policy{
		standard("both", side(rule(inShop("fe"), anyPort)), side(rule(inShop("api"), tcp(8080)))),
		wide(policy.Baseline, 1, "wide", ruleset.Drop, inShop("nobody")),
	}
	s.Slices = []policy.EndpointSlice{backends(8080, "10.0.0.2")}
	other := func(name string, labels policy.Labels, addrs ...string) policy.Snapshot {
		p := newPod(name, addrs...)
		p.Labels = labels
		return policy.Snapshot{Pods: []policy.Pod{p}}
	}
	tests := []struct {
		name    string
		c       policy.Change
		touched bool
	}{
		{"nothing", policy.Change{}, false},
		{"the same objects again", policy.Change{Set: s}, false},
		{"a pod that nobody names", policy.Change{Set: other("shop/x", policy.Labels{"app": "x"}, "10.0.0.9")}, false},
		{"a pod with the right labels elsewhere", policy.Change{Set: other("bank/x", policy.Labels{"app": "api"}, "10.0.0.9")}, false},
		{"a pod without an address", policy.Change{Set: other("shop/x", policy.Labels{"app": "api"})}, false},
		{"a pod that is a peer", policy.Change{Set: other("shop/x", policy.Labels{"app": "api"}, "10.0.0.9")}, true},
		{"a policy of another namespace", policy.Change{Set: policy.Snapshot{Policies: []policy.Policy{
			{Ref: ruleset.Ref{Namespace: "bank", Name: "x"}, Subject: policy.PodSet{Namespace: "bank", Pods: policy.Selector{All: true}}},
		}}}, false},
		{"a Service that can't be reached", policy.Change{Set: policy.Snapshot{
			Services: []policy.Service{{Namespace: "bank", Name: "x", Addresses: addr("10.96.0.77"), Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 1}}}},
		}}, false},
		{"a Service that can", policy.Change{Set: policy.Snapshot{
			Services: []policy.Service{{Namespace: "shop", Name: "x", Addresses: addr("10.96.0.77"), Ports: []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: 1}}}},
			Slices:   []policy.EndpointSlice{of("x", backends(8080, "10.0.0.2", "10.0.0.2!"))},
		}}, true},
		{"an endpoint that is accepted, too", policy.Change{Set: policy.Snapshot{Slices: []policy.EndpointSlice{of("api", backends(8080, "10.0.0.3"))}}}, false},
		{"an endpoint that is not", policy.Change{Set: policy.Snapshot{Slices: []policy.EndpointSlice{backends(8080, "10.0.0.4")}}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := policy.New(s)
			target := policy.Target{Pod: s.Pods[0], Addresses: s.Pods[0].Addresses, Node: addr("192.168.0.1")}
			f := w.Firewall(target, nil)
			w.Apply(tt.c)
			if touched := w.Firewall(target, f) != f; touched != tt.touched {
				t.Errorf("worked out again is %t, want %t\n%s", touched, tt.touched, show(f.Rules.Egress))
			}
		})
	}
}

// What the World keeps in its own form comes out as it went in, whatever fields
// are added later.
func TestNothingIsLostInAWorld(t *testing.T) {
	var s policy.Snapshot
	fill(t, reflect.ValueOf(&s).Elem())
	s.Namespaces[0].Labels[policy.NamespaceNameLabel] = s.Namespaces[0].Name
	w := policy.New(s)
	ns, _ := w.Namespace(s.Namespaces[0].Name)
	got := policy.Snapshot{Namespaces: []policy.Namespace{ns}, Pods: slices.Collect(w.Pods()), Nodes: slices.Collect(w.Nodes()),
		Services: slices.Collect(w.Services()), Slices: s.Slices, Policies: slices.Collect(w.Policies())}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v\nwant %+v", got, s)
	}
}

// fill sets every field to something that is not zero.
func fill(t *testing.T, v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(netip.MustParseAddr("10.0.0.1")))
	case v.Type() == reflect.TypeFor[netip.Prefix]():
		v.Set(reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/8")))
	case v.Kind() == reflect.Struct:
		for _, f := range v.Fields() {
			fill(t, f)
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
	case v.Kind() == reflect.String:
		v.SetString("name")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(1)
	case v.CanUint():
		v.SetUint(1)
	default:
		t.Fatalf("nobody knows how to fill %s", v.Type())
	}
}

// replace leads w to another history's end, once as a source does that knows where
// w is, once as one that does not.
func (h *history) replace(t *testing.T, w *policy.World) {
	t.Helper()
	target := h.target(policy.Snapshot{Pods: []policy.Pod{h.anyPod()}})
	next := func() policy.Snapshot {
		other := newHistory(h.world)
		for range 20 {
			other.step(3)
		}
		return other.snapshot()
	}
	second, third := next(), next()
	w.Apply(policy.Difference(h.snapshot(), second))
	if got, want := w.Compile(target), policy.New(second).Compile(target); !reflect.DeepEqual(got, want) {
		t.Fatalf("after a Difference the rules are\n%+v, want\n%+v", got, want)
	}
	w.Apply(policy.Change{Set: third, Gone: w.Beyond(third)})
	if got, want := w.Compile(target), policy.New(third).Compile(target); !reflect.DeepEqual(got, want) {
		t.Fatalf("after what is Beyond the rules are\n%+v, want\n%+v", got, want)
	}
	if c := policy.Difference(third, third); !reflect.DeepEqual(c, policy.Change{}) {
		t.Fatalf("a Snapshot differs from itself by %+v", c)
	}
}

// compare asks two Worlds the same questions.
func (h *history) compare(t *testing.T, got, want *policy.World) {
	t.Helper()
	same := func(what string, got, want any) {
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %+v, want %+v", what, got, want)
		}
	}
	for _, name := range []string{"shop", "bank", "lost", "never"} {
		a, knownA := got.Namespace(name)
		b, knownB := want.Namespace(name)
		same("namespace "+name, fmt.Sprint(a, knownA), fmt.Sprint(b, knownB))
	}
	for i := range 9 {
		a := netip.MustParseAddr(fmt.Sprint("10.0.0.", i))
		same("pods at "+a.String(), names(got.PodsAt(a)), names(want.PodsAt(a)))
		v := netip.MustParseAddr(fmt.Sprint("10.96.0.", i))
		same("services at "+v.String(), len(got.ServicesAt(v)), len(want.ServicesAt(v)))
	}
	pods := slices.Collect(got.Pods())
	same("pods", names(pods), names(slices.Collect(want.Pods())))
	for _, p := range pods {
		same("pod", fmt.Sprint(p), fmt.Sprint(h.pods[policy.Name{Namespace: p.Namespace, Name: p.Name}]))
		same("selecting", got.Selecting(p), want.Selecting(p))
	}
}

func names(pods []policy.Pod) []string {
	var list []string
	for _, p := range pods {
		list = append(list, p.Namespace+"/"+p.Name)
	}
	slices.Sort(list)
	return list
}
