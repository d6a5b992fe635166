package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// cluster is what the cases of TestServices happen in: the pod web at 10.0.0.1
// on a node at 192.168.0.1, two pods labelled app=api, one labelled app=db, and a
// Service "api" at 10.96.0.1 and fd96::1, port 80, node port 30080.
func cluster() policy.Snapshot {
	api2 := newPod("shop/api-2", "10.0.0.3", "fd00::3")
	api2.Labels = policy.Labels{"app": "api"}
	return policy.Snapshot{
		Pods: []policy.Pod{newPod("shop/web", "10.0.0.1", "fd00::1"), newPod("shop/api", "10.0.0.2", "fd00::2"), api2, newPod("shop/db", "10.0.0.4", "fd00::4")},
		Services: []policy.Service{{Namespace: "shop", Name: "api", Addresses: addr("10.96.0.1", "fd96::1"),
			Ports: []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: 80, NodePort: 30080}}}},
	}
}

// backends is a slice of Service "api": each is an address, with "!" if it is
// not ready.
func backends(port uint16, addrs ...string) policy.EndpointSlice {
	s := policy.EndpointSlice{Namespace: "shop", Name: fmt.Sprint(port, addrs), Service: "api",
		Ports: []policy.EndpointPort{{Name: "http", Proto: ruleset.TCP, Port: port}}}
	for _, a := range addrs {
		bare := strings.TrimSuffix(a, "!")
		s.Endpoints = append(s.Endpoints, policy.Endpoint{Addresses: addr(bare), Ready: bare == a})
	}
	return s
}

func of(service string, s policy.EndpointSlice) policy.EndpointSlice {
	s.Service = service
	return s
}

// E14, and what else there is between a pod and what is behind a Service.
func TestServices(t *testing.T) {
	toAPI := rule(inShop("api"), tcp(8080))
	both := []policy.EndpointSlice{backends(8080, "10.0.0.2", "10.0.0.3")}
	v4, v6 := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")
	node := netip.MustParseAddr("192.168.0.1")
	otherNode := func(s *policy.Snapshot, _ *policy.Target) {
		s.Nodes = []policy.Node{{Name: "own", Addresses: addr("192.168.0.1")}, {Name: "other", Addresses: addr("192.168.0.2", "fd00:9::2")}}
	}
	// dbAtOther is the Service "db" whose external address and port are those of a
	// node port of "api" at the other node.
	dbAtOther := func(s *policy.Snapshot, target *policy.Target) {
		otherNode(s, target)
		s.Services = append(s.Services, policy.Service{Namespace: "shop", Name: "db", Addresses: addr("192.168.0.2"),
			Ports: []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: 30080}}})
	}
	toDB, withDB := rule(inShop("db"), tcp(8080)), append(both, of("db", backends(8080, "10.0.0.4")))
	tests := []struct {
		name   string
		egress []policy.Rule
		slices []policy.EndpointSlice
		peer   netip.Addr
		port   uint16
		want   ruleset.Action
		tier   string // that decides
		change func(*policy.Snapshot, *policy.Target)
	}{
		{"all that is behind it is allowed", []policy.Rule{toAPI}, both, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"one endpoint is not allowed", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.2", "10.0.0.4")}, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"the service's port is not the endpoint's", []policy.Rule{rule(inShop("api"), tcp(80))}, both, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"another port of the virtual address", []policy.Rule{toAPI}, both, v4, 8080, ruleset.Drop, ruleset.TierPolicy, nil},
		{"target ports may differ from pod to pod", []policy.Rule{toAPI, rule(inShop("api"), tcp(9090))},
			[]policy.EndpointSlice{backends(8080, "10.0.0.2"), backends(9090, "10.0.0.3")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"one of several target ports is not allowed", []policy.Rule{toAPI},
			[]policy.EndpointSlice{backends(8080, "10.0.0.2"), backends(9090, "10.0.0.3")}, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"an endpoint that is not ready doesn't count", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.2", "10.0.0.4!")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"none is ready: all count", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.2!", "10.0.0.4!")}, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"none is ready and all are allowed", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.2!")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"endpoints of the other family don't count", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.2"), backends(8080, "fd00::4")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"endpoints of its own family do", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.4"), backends(8080, "fd00::2")}, v6, 80, ruleset.Accept, ruleset.TierService, nil},
		{"nothing behind it and nothing allowed", []policy.Rule{toAPI}, nil, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"nothing behind it, its address allowed", []policy.Rule{rule(block("10.0.0.0/8"), anyPort)}, nil, v4, 80, ruleset.Drop, ruleset.TierService, nil},
		{"nothing behind it, every address allowed on one port", []policy.Rule{rule(anyone, tcp(80))}, nil, v4, 80, ruleset.Drop, ruleset.TierService, nil},
		{"nothing behind it, everything allowed", []policy.Rule{rule(anyone, anyPort)}, nil, v4, 80, ruleset.Accept, ruleset.TierPolicy, nil},
		{"a block of virtual addresses opens nothing behind them", []policy.Rule{rule(block("10.96.0.0/12"), anyPort)}, both, v4, 80, ruleset.Drop, ruleset.TierService, nil},
		{"a block of endpoints opens what leads there", []policy.Rule{rule(block("10.0.0.0/24"), anyPort)}, both, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"everything allowed needs no service tier", []policy.Rule{rule(anyone, anyPort)}, both, v4, 80, ruleset.Accept, ruleset.TierPolicy, nil},
		{"the pod itself is behind it (hairpin)", []policy.Rule{toAPI}, []policy.EndpointSlice{backends(8080, "10.0.0.1", "10.0.0.2")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"only the pod itself is behind it", nil, []policy.EndpointSlice{backends(8080, "10.0.0.1")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"another pod with the same policies is not itself", nil, []policy.EndpointSlice{backends(8080, "10.0.0.2")}, v4, 80, ruleset.Drop, ruleset.TierPolicy, nil},
		{"a host process of its own node is behind it", nil, []policy.EndpointSlice{backends(6443, "192.168.0.1")}, v4, 80, ruleset.Accept, ruleset.TierService, nil},
		{"an external address leads to the same", []policy.Rule{toAPI}, both, netip.MustParseAddr("203.0.113.1"), 80, ruleset.Accept, ruleset.TierService,
			func(s *policy.Snapshot, _ *policy.Target) { s.Services[0].Addresses = addr("203.0.113.1") }},
		{"an external address allowed by block still needs its endpoints", []policy.Rule{rule(block("203.0.113.0/24"), anyPort)}, both, netip.MustParseAddr("203.0.113.1"), 80, ruleset.Drop, ruleset.TierService,
			func(s *policy.Snapshot, _ *policy.Target) { s.Services[0].Addresses = addr("203.0.113.1") }},
		{"headless: its pods are judged by themselves", []policy.Rule{toAPI}, both, netip.MustParseAddr("10.0.0.2"), 8080, ruleset.Accept, ruleset.TierPolicy,
			func(s *policy.Snapshot, _ *policy.Target) {
				s.Services[0].Addresses, s.Services[0].Ports = nil, nil
			}},
		{"the node port leads to the same", []policy.Rule{toAPI}, both, node, 30080, ruleset.Accept, ruleset.TierNode, nil},
		{"the node is admitted but not what is behind its node ports", nil, both, node, 30080, ruleset.Drop, ruleset.TierService, nil},
		{"other ports of the node stay open", nil, both, node, 30081, ruleset.Accept, ruleset.TierNode, nil},
		{"the node port, with the node subject to policy", []policy.Rule{toAPI}, both, node, 30080, ruleset.Accept, ruleset.TierService,
			func(_ *policy.Snapshot, target *policy.Target) { target.NodeEgressByPolicy = true }},
		{"the node port of another node leads to the same", []policy.Rule{toAPI}, both, netip.MustParseAddr("192.168.0.2"), 30080, ruleset.Accept, ruleset.TierService, otherNode},
		{"another node is allowed but not what is behind its node ports", []policy.Rule{rule(block("192.168.0.0/24"), anyPort)}, both, netip.MustParseAddr("192.168.0.2"), 30080, ruleset.Drop, ruleset.TierService, otherNode},
		{"another node, over the family where an endpoint is not allowed", []policy.Rule{toAPI}, append(both, backends(8080, "fd00::4")), netip.MustParseAddr("fd00:9::2"), 30080, ruleset.Drop, ruleset.TierService, otherNode},
		{"other ports of another node are judged as what they are", []policy.Rule{rule(block("192.168.0.0/24"), anyPort)}, both, netip.MustParseAddr("192.168.0.2"), 30081, ruleset.Accept, ruleset.TierPolicy, otherNode},
		{"an external address at another node's port is not allowed", []policy.Rule{toAPI}, withDB, netip.MustParseAddr("192.168.0.2"), 30080, ruleset.Drop, ruleset.TierService, dbAtOther},
		{"another node's port at an external address is not allowed", []policy.Rule{toDB}, withDB, netip.MustParseAddr("192.168.0.2"), 30080, ruleset.Drop, ruleset.TierService, dbAtOther},
		{"another node's port and an external address there are allowed", []policy.Rule{toAPI, toDB}, withDB, netip.MustParseAddr("192.168.0.2"), 30080, ruleset.Accept, ruleset.TierService, dbAtOther},
		{"two services at one address: both must be allowed", []policy.Rule{toAPI}, append(both, of("db", backends(8080, "10.0.0.4"))), v4, 80, ruleset.Drop, ruleset.TierPolicy,
			func(s *policy.Snapshot, _ *policy.Target) {
				db := s.Services[0]
				db.Name = "db"
				s.Services = append(s.Services, db)
			}},
		{"nothing behind it, everything allowed save what is passed on", nil, nil, v4, 80, ruleset.Drop, ruleset.TierService,
			func(s *policy.Snapshot, _ *policy.Target) {
				s.Policies = append(s.Policies, wide(policy.Admin, 1, "a", ruleset.Pass, inShop("api")), wide(policy.Admin, 2, "b", ruleset.Accept, anyone))
			}},
		{"nothing behind it, everything allowed or passed on to where it is", []policy.Rule{rule(anyone, anyPort)}, nil, v4, 80, ruleset.Accept, ruleset.TierAdmin,
			func(s *policy.Snapshot, _ *policy.Target) {
				s.Policies = append(s.Policies, wide(policy.Admin, 1, "a", ruleset.Pass, inShop("api")), wide(policy.Admin, 2, "b", ruleset.Accept, anyone))
			}},
		{"an admin's drop holds behind the address", []policy.Rule{rule(anyone, anyPort)}, both, v4, 80, ruleset.Drop, ruleset.TierService,
			func(s *policy.Snapshot, _ *policy.Target) {
				s.Policies = append(s.Policies, wide(policy.Admin, 1, "no-api", ruleset.Drop, inShop("api")))
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := cluster()
			s.Slices, s.Policies = tt.slices, []policy.Policy{standard("egress", policy.Side{}, side(tt.egress...))}
			target := policy.Target{Pod: s.Pods[0], Addresses: s.Pods[0].Addresses, Node: addr("192.168.0.1")}
			if tt.change != nil {
				tt.change(&s, &target)
			}
			w := policy.New(s)
			w.Compile(policy.Target{Pod: s.Pods[1], Node: target.Node}) // a neighbour that shares what is remembered
			c := w.Compile(target).Egress
			if got := c.Decide(tt.peer, ruleset.TCP, tt.port); got.Action != tt.want || got.Tier != tt.tier {
				t.Errorf("%s by tier %q, want %s by %q\n%s", got.Action, got.Tier, tt.want, tt.tier, show(c))
			}
			if got := c.Decide(tt.peer, ruleset.UDP, tt.port); got.Tier == ruleset.TierService {
				t.Errorf("the service tier speaks about UDP:\n%s", show(c))
			}
		})
	}
}

func TestServiceTierIsSortedAndSmall(t *testing.T) {
	s := cluster()
	s.Services[0].Ports = append(s.Services[0].Ports, policy.ServicePort{Name: "http", Proto: ruleset.TCP, Port: 443})
	s.Services = append(s.Services,
		policy.Service{Namespace: "shop", Name: "db", Addresses: addr("10.96.0.2"), Ports: []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: 80}}},
		policy.Service{Namespace: "bank", Name: "dns", Addresses: addr("10.96.0.3"), Ports: []policy.ServicePort{{Proto: ruleset.UDP, Port: 53}}},
		policy.Service{Namespace: "bank", Name: "far", Addresses: addr("10.97.0.1"), Ports: []policy.ServicePort{{Proto: ruleset.UDP, Port: 53}}})
	s.Slices = []policy.EndpointSlice{backends(8080, "10.0.0.2"), of("db", backends(5432, "10.0.0.4"))}
	s.Policies = []policy.Policy{standard("e", policy.Side{}, side(rule(inShop("api"), tcp(8080)), rule(block("10.96.0.2/31"), anyPort)))}
	target := policy.Target{Pod: s.Pods[0], Node: addr("192.168.0.1")}
	got := show(policy.New(s).Compile(target).Egress)
	want := `service []
  tcp-80[0] Accept [10.96.0.1/32]:[TCP 80]
  tcp-80[1] Drop [10.96.0.2/32]:[TCP 80]
  tcp-443[0] Accept [10.96.0.1/32]:[TCP 443]
  udp-53[1] Drop [10.96.0.3/32]:[UDP 53]
  else Pass
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("egress:\n%swant it to begin with\n%s", got, want)
	}
}
