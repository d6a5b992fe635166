package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestSelecting(t *testing.T) {
	picky := standard("picky", side(), policy.Side{})
	picky.Subject.Pods = app("web")
	broken := standard("broken", side(), side())
	broken.Broken = "spec.ingress[0]: no"
	other := standard("other", side(), side())
	other.Subject.Namespace = "bank"
	w := policy.New(policy.Snapshot{Policies: []policy.Policy{
		picky, broken, other, wide(policy.Admin, 1, "all", ruleset.Drop, anyone),
	}})
	web, host := newPod("shop/web"), newPod("shop/web")
	host.HostNetwork = true
	for _, tt := range []struct {
		name string
		pod  policy.Pod
		want string
	}{
		{"in the order they are tried", web, "[{all 1 true true namespaces <all>, pods <all> } {shop/broken 0 true true <all> spec.ingress[0]: no} {shop/picky 0 true false app=web }]"},
		{"selectors are asked", newPod("shop/api"), "[{all 1 true true namespaces <all>, pods <all> } {shop/broken 0 true true <all> spec.ingress[0]: no}]"},
		{"hostNetwork pods are selected by none", host, "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(w.Selecting(tt.pod)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	done, host := newPod("shop/done", "10.0.0.1"), newPod("shop/host", "192.168.0.1")
	done.Done, host.HostNetwork = true, true
	svc := policy.Service{Namespace: "shop", Name: "api", Addresses: addr("10.96.0.1", "fd96::1")}
	svc.Ports = []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: 80}}
	w := policy.New(policy.Snapshot{
		Namespaces: []policy.Namespace{{Name: "bank", Labels: policy.Labels{"team": "b"}}},
		Pods:       []policy.Pod{done, host, newPod("shop/new", "10.0.0.1")},
		Nodes:      []policy.Node{{Name: "n1"}},
		Services:   []policy.Service{svc},
		Slices: []policy.EndpointSlice{
			{Namespace: "shop", Name: "a", Service: "api", Ports: []policy.EndpointPort{{Name: "http", Proto: ruleset.TCP, Port: 8080}},
				Endpoints: []policy.Endpoint{{Addresses: addr("10.0.0.1"), Ready: true}, {Addresses: addr("fd00::1")}}},
			{Namespace: "shop", Name: "b", Service: "api", Ports: []policy.EndpointPort{{Name: "http", Proto: ruleset.UDP, Port: 1}, {Name: "x", Proto: ruleset.TCP, Port: 2}},
				Endpoints: []policy.Endpoint{{Addresses: addr("10.0.0.9")}}},
			{Namespace: "bank", Name: "a", Service: "api", Ports: []policy.EndpointPort{{Name: "http", Proto: ruleset.TCP, Port: 3}},
				Endpoints: []policy.Endpoint{{Addresses: addr("10.0.0.8")}}},
		},
	})
	names := func(pods []policy.Pod) (list []string) {
		for _, p := range pods {
			list = append(list, p.Namespace+"/"+p.Name)
		}
		return list
	}
	sameName := svc
	sameName.Namespace = "bank"
	_, ghost := w.Pod("shop", "ghost")
	_, doneToo := w.Pod("shop", "done")
	_, nowhere := w.Namespace("nowhere")
	bank, _ := w.Namespace("bank")
	shop, _ := w.Namespace("shop")
	_, node := w.Node("n1")
	_, service := w.Service("shop", "api")
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"no pod of that name", ghost, false},
		{"a pod that is done has its name", doneToo, true},
		{"but not its address", names(w.PodsAt(netip.MustParseAddr("::ffff:10.0.0.1"))), []string{"shop/new"}},
		{"a hostNetwork pod is at its node's address", names(w.PodsAt(netip.MustParseAddr("192.168.0.1"))), []string{"shop/host"}},
		{"no namespace of that name", nowhere, false},
		{"a namespace has its own labels", bank.Labels, policy.Labels{"team": "b", "kubernetes.io/metadata.name": "bank"}},
		{"a namespace that is only named exists", shop.Labels, policy.Labels{"kubernetes.io/metadata.name": "shop"}},
		{"node by name", node, true},
		{"service by name", service, true},
		{"service by address", w.ServicesAt(netip.MustParseAddr("fd96::1"))[0].Name, "api"},
		{"no service there", len(w.ServicesAt(netip.MustParseAddr("10.96.0.2"))), 0},
		{"backends of one family, port and protocol", w.Backends(svc, svc.Ports[0], svc.Addresses[0]), "[{10.0.0.1:8080 true}]"},
		{"backends of the Service of that name elsewhere", w.Backends(sameName, svc.Ports[0], svc.Addresses[0]), "[{10.0.0.8:3 false}]"},
		{"backends of the other family, ready or not", w.Backends(svc, svc.Ports[0], svc.Addresses[1]), "[{[fd00::1]:8080 false}]"},
	} {
		if got, want := fmt.Sprint(tt.got), fmt.Sprint(tt.want); got != want {
			t.Errorf("%s: got %s, want %s", tt.name, got, want)
		}
	}
}
