package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// large is a cluster of 10,000 pods in 100 namespaces with 1,000 policies and 500
// Services, and the 110 pods of one of its nodes.
func large() (policy.Snapshot, []policy.Target) {
	var s policy.Snapshot
	var targets []policy.Target
	for n := range 100 {
		ns := fmt.Sprint("ns-", n)
		s.Namespaces = append(s.Namespaces, policy.Namespace{Name: ns, Labels: policy.Labels{"team": fmt.Sprint("team-", n%10)}})
		for i := range 100 {
			v4 := netip.AddrFrom4([4]byte{10, byte(n), 0, byte(i)})
			v6 := netip.AddrFrom16([16]byte{0xfd, 14: byte(n), 15: byte(i)})
			p := policy.Pod{Namespace: ns, Name: fmt.Sprint("pod-", i), Addresses: []netip.Addr{v4, v6},
				Labels: policy.Labels{"app": fmt.Sprint("app-", i%10), "tier": fmt.Sprint("tier-", i%3), "instance": fmt.Sprint(i)},
				Ports:  []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: uint16(8000 + i%4)}}}
			s.Pods = append(s.Pods, p)
			if i == 0 || i == 50 && n < 10 {
				targets = append(targets, policy.Target{Pod: p, Addresses: p.Addresses, Node: addr("192.168.0.1")})
			}
		}
		for i := range 10 {
			s.Policies = append(s.Policies, largePolicy(ns, n, i))
		}
		for i := range 5 {
			svc, slice := largeService(ns, n, i)
			s.Services, s.Slices = append(s.Services, svc), append(s.Slices, slice)
		}
	}
	return s, targets
}

// largePolicy selects a tenth of its namespace, or all of it if i is 0.
func largePolicy(ns string, n, i int) policy.Policy {
	team := policy.Selector{Needs: []policy.Need{{Key: "team", Op: policy.In, Values: []string{fmt.Sprint("team-", i)}}}}
	p := standard(fmt.Sprint("policy-", i),
		side(rule(policy.Peer{Pods: policy.PodSet{Namespaces: team, Pods: app(fmt.Sprint("app-", n%10))}}, tcp(80), namedTCP("http"))),
		side(rule(policy.Peer{Pods: policy.PodSet{Namespaces: team, Pods: policy.Selector{All: true}}}, tcp(8080), namedTCP("http")), rule(block("203.0.113.0/24"), anyPort)))
	p.Ref.Namespace, p.Subject.Namespace = ns, ns
	if i > 0 {
		p.Subject.Pods = app(fmt.Sprint("app-", (i+n)%10))
	}
	return p
}

func largeService(ns string, n, i int) (policy.Service, policy.EndpointSlice) {
	name := fmt.Sprint("service-", i)
	slice := policy.EndpointSlice{Namespace: ns, Name: name, Service: name, Ports: []policy.EndpointPort{{Proto: ruleset.TCP, Port: 8080}}}
	for j := range 20 {
		a := netip.AddrFrom4([4]byte{10, byte(n), 0, byte(i*20 + j)})
		slice.Endpoints = append(slice.Endpoints, policy.Endpoint{Addresses: []netip.Addr{a}, Ready: true})
	}
	return policy.Service{Namespace: ns, Name: name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 200, byte(n), byte(i)})},
		Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 80}}}, slice
}

// BenchmarkNode is a daemon's start, or the worst change: all pods of a node.
func BenchmarkNode(b *testing.B) {
	s, targets := large()
	for b.Loop() {
		w := policy.New(s)
		for _, t := range targets {
			w.Compile(t)
		}
	}
}

// BenchmarkPod is one pod that is added, in a World that was used before.
func BenchmarkPod(b *testing.B) {
	s, targets := large()
	w := policy.New(s)
	w.Compile(targets[0])
	for b.Loop() {
		w.Compile(targets[0])
	}
}

// BenchmarkNew is the index alone.
func BenchmarkNew(b *testing.B) {
	s, _ := large()
	for b.Loop() {
		policy.New(s)
	}
}
