package policy_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Compile says of every flow what the model says.
func TestTiersMeanWhatTheModelSays(t *testing.T) {
	r := world{random(t)}
	verdicts := make(map[bool]int)
	for range 1500 {
		s := r.snapshot(policy.Admin, policy.Standard, policy.Baseline)
		w, m := policy.New(s), model{s}
		for range 3 {
			target := r.target(s)
			rs := w.Compile(target)
			for range 20 {
				f := r.flow()
				node := slices.Contains(target.Node, f.peer) && (f.dir == ruleset.Ingress || !target.NodeEgressByPolicy)
				want := node || m.accepts(target.Pod, f)
				verdicts[want]++
				if f.accepted(rs) != want {
					t.Fatalf("%s/%s %s %v %s %d: accepted is %t, want %t\npolicies %+v\nrule set %+v",
						target.Pod.Namespace, target.Pod.Name, f.dir, f.peer, f.proto, f.port, !want, want, s.Policies, rs)
				}
			}
		}
	}
	if n := min(verdicts[true], verdicts[false]); n < 5000 {
		t.Errorf("the rarer verdict came %d times: the clusters are too much alike", n)
	}
}

// A virtual address is accepted exactly where all that is behind it is.
func TestServiceTierMeansWhatTheModelSays(t *testing.T) {
	r := world{random(t)}
	elements := make(map[ruleset.Action]int)
	for range 4000 {
		without := r.snapshot(policy.Admin, policy.Standard, policy.Standard)
		with := r.withServices(without)
		target := r.target(with)
		addresses, behind := policy.New(without).Compile(target).Egress, policy.New(with).Compile(target).Egress
		opensEverything := sync.OnceValue(func() bool { return r.opensEverything(addresses) })
		for range 20 {
			f := r.toService(with)
			if r.chance(20) {
				f = r.flow()
			}
			got := behind.Decide(f.peer, f.proto, f.port)
			want, known := expected(with, target, addresses, f)
			if known && (got.Action == ruleset.Accept) != want {
				t.Fatalf("%v %s %d from %v: %+v, want accepted to be %t\nservices %+v\nslices %+v\nwithout services %+v",
					f.peer, f.proto, f.port, target.Pod.Addresses, got, want, with.Services, with.Slices, addresses)
			}
			if !known && got.Action == ruleset.Accept && !opensEverything() {
				t.Fatalf("%v %s %d has nothing behind it: %+v, want it dropped\nwithout services %+v",
					f.peer, f.proto, f.port, got, addresses)
			}
			if got.Tier == ruleset.TierService {
				elements[got.Action]++
			}
		}
	}
	if n := min(elements[ruleset.Accept], elements[ruleset.Drop]); n < 50 {
		t.Errorf("the service tier decided only %v flows", elements)
	}
}

// expected is whether f should be accepted where c is right about addresses that
// are not virtual. It is not known if f goes to a Service with nothing behind it.
func expected(s policy.Snapshot, target policy.Target, c ruleset.Chain, f flow) (want, known bool) {
	want, isService, empty := true, false, false
	for i, svc := range s.Services {
		p := svc.Ports[0]
		cluster := slices.ContainsFunc(svc.Addresses, func(a netip.Addr) bool { return a.Unmap() == f.peer.Unmap() }) && p.Port == f.port
		node := (slices.Contains(target.Node, f.peer) || f.peer == otherNode) && p.NodePort == f.port && f.port != 0
		if p.Proto != f.proto || !cluster && !node {
			continue
		}
		isService = true
		var ready, every []bool
		for _, e := range s.Slices[i].Endpoints {
			if a := e.Addresses[0].Unmap(); a.Is4() == f.peer.Unmap().Is4() {
				ok := slices.Contains(target.Pod.Addresses, a) || c.Decide(a, p.Proto, s.Slices[i].Ports[0].Port).Action == ruleset.Accept
				if every = append(every, ok); e.Ready {
					ready = append(ready, ok)
				}
			}
		}
		if len(ready) > 0 {
			every = ready
		}
		want = want && !slices.Contains(every, false)
		empty = empty || len(every) == 0
	}
	if !isService {
		return c.Decide(f.peer, f.proto, f.port).Action == ruleset.Accept, true
	}
	return want, !want || !empty
}

// opensEverything is false if c drops any of a thousand flows.
func (r world) opensEverything(c ruleset.Chain) bool {
	for range 1000 {
		if f := r.flow(); c.Decide(f.peer, f.proto, f.port).Action != ruleset.Accept {
			return false
		}
	}
	return true
}

// The same Snapshot in any order is the same rule set.
func TestOrderCarriesNoMeaning(t *testing.T) {
	r := world{random(t)}
	for range 30 {
		s := r.withServices(r.snapshot(policy.Admin, policy.Standard, policy.Baseline))
		target := r.target(s)
		want := policy.New(s).Compile(target).Revision()
		for range 20 {
			r.shuffle(&s)
			if got := policy.New(s).Compile(target).Revision(); got != want {
				t.Fatalf("shuffled snapshot compiles to %s, want %s\n%+v", got, want, s)
			}
		}
	}
}

func (r world) shuffle(s *policy.Snapshot) {
	shuffle(r, s.Namespaces)
	shuffle(r, s.Pods)
	shuffle(r, s.Services)
	shuffle(r, s.Slices)
	shuffle(r, s.Policies)
	for i := range s.Slices {
		shuffle(r, s.Slices[i].Endpoints)
	}
	for _, p := range s.Policies {
		for _, rule := range append(p.Ingress.Rules[:len(p.Ingress.Rules):len(p.Ingress.Rules)], p.Egress.Rules...) {
			shuffle(r, rule.Peers)
			shuffle(r, rule.Ports)
		}
	}
}

func shuffle[T any](r world, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// A World answers for a pod alike, whatever it was asked before.
func TestMemoryCarriesNoMeaning(t *testing.T) {
	r := world{random(t)}
	for range 100 {
		s := r.withServices(r.snapshot(policy.Admin, policy.Standard, policy.Baseline))
		used := policy.New(s)
		for range 10 {
			target := r.target(s)
			if got, want := used.Compile(target).Revision(), policy.New(s).Compile(target).Revision(); got != want {
				t.Fatalf("used World compiles %+v to %s, want %s\n%+v", target, got, want, s)
			}
		}
	}
}
