package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// vast is a cluster of n pods with four labels each, four in a namespace that has
// three policies: one that lets in the namespace's own pods, one the pods of all
// namespaces of its team, and one everybody's. The targets are 110 pods of one
// node, of as many namespaces.
func vast(n int) (policy.Snapshot, []policy.Target) {
	var s policy.Snapshot
	var targets []policy.Target
	for i := range n / 4 {
		ns := fmt.Sprint("namespace-", i)
		s.Namespaces = append(s.Namespaces, policy.Namespace{Name: ns, Labels: policy.Labels{"team": fmt.Sprint("team-", i%100)}})
		for j := range 4 {
			p := vastPod(ns, 4*i+j)
			s.Pods = append(s.Pods, p)
			if j == 0 && len(targets) < 110 {
				targets = append(targets, policy.Target{Pod: p, Addresses: p.Addresses, Node: addr("192.168.0.1")})
			}
		}
		everyone, team := policy.Selector{All: true}, policy.Selector{Needs: []policy.Need{{Key: "team", Op: policy.In, Values: []string{fmt.Sprint("team-", i%100)}}}}
		for k, peer := range []policy.PodSet{
			{Namespace: ns, Pods: everyone},
			{Namespaces: team, Pods: app("app-0")},
			{Namespaces: everyone, Pods: everyone},
		} {
			s.Policies = append(s.Policies, vastPolicy(ns, k, peer))
		}
	}
	return s, targets
}

func vastPod(ns string, i int) policy.Pod {
	return policy.Pod{Namespace: ns, Name: fmt.Sprintf("deployment-%d-5d4f8c7b9-x%05d", i%10, i), UID: fmt.Sprintf("01234567-89ab-cdef-0123-%012d", i),
		Node: fmt.Sprint("node-", i/110), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
		Labels: policy.Labels{"app": fmt.Sprint("app-", i%4), "pod-template-hash": "5d4f8c7b9", "tier": fmt.Sprint("tier-", i%3), "instance": fmt.Sprint("instance-", i)},
		Ports:  []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: 8080}}}
}

func vastPolicy(ns string, k int, peer policy.PodSet) policy.Policy {
	port := uint16(8080 + k)
	r := policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Pods: peer}}, Ports: []policy.Port{tcp(port)}}
	return policy.Policy{Ref: ruleset.Ref{Kind: "NetworkPolicy", Namespace: ns, Name: fmt.Sprint("policy-", k)},
		Subject: policy.PodSet{Namespace: ns, Pods: policy.Selector{All: true}}, Ingress: side(r), Egress: side(r)}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkScale is what 100,000 pods cost, of one of which a daemon hears, and
// 110 of which stand on its node.
func BenchmarkScale(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.Run("new", func(b *testing.B) {
				var used uint64
				for b.Loop() {
					b.StopTimer()
					before := heap()
					s, _ := vast(n)
					b.StartTimer()
					w := policy.New(s)
					b.StopTimer()
					s = policy.Snapshot{}
					used = heap() - before
					runtime.KeepAlive(w)
					b.StartTimer()
				}
				b.ReportMetric(float64(used)/float64(n), "B/pod")
			})
			s, targets := vast(n)
			w, last := policy.New(s), make([]*policy.Firewall, len(targets))
			compile := func() (other int) {
				for i, t := range targets {
					if f := w.Firewall(t, last[i]); f != last[i] {
						last[i], other = f, other+1
					}
				}
				return other
			}
			b.Run("node", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					w.Keep(func(func(*policy.Firewall) bool) {})
					b.StartTimer()
					compile()
				}
			})
			b.Run("pod", func(b *testing.B) { // comes and goes
				p := vastPod("namespace-0", 10_000_000)
				for i := 0; b.Loop(); i++ {
					if i%2 == 0 {
						w.Apply(policy.Change{Set: policy.Snapshot{Pods: []policy.Pod{p}}})
					} else {
						w.Apply(policy.Change{Gone: policy.Gone{Pods: []policy.Name{{Namespace: p.Namespace, Name: p.Name}}}})
					}
					if compile() != len(targets) {
						b.Fatal("a pod has not heard of it")
					}
				}
			})
			b.Run("policy", func(b *testing.B) { // of one local pod
				for i := 0; b.Loop(); i++ {
					w.Apply(policy.Change{Set: policy.Snapshot{Policies: []policy.Policy{vastPolicy("namespace-0", 0, policy.PodSet{Namespace: "namespace-0", Pods: app(fmt.Sprint("app-", i%4))})}}})
					if compile() != 1 {
						b.Fatal("others have heard of it")
					}
				}
			})
			b.Run("idle", func(b *testing.B) {
				for b.Loop() {
					w.Apply(policy.Change{})
					compile()
				}
			})
		})
	}
}
