package policy_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Flows between the pods and the far ends of a part are judged there as in the
// whole World.
func TestPartJudgesAsTheWhole(t *testing.T) {
	r := world{random(t)}
	verdicts, smaller := map[bool]int{}, 0
	for range 3000 {
		s := r.withServices(r.snapshot(policy.Admin, policy.Standard, policy.Baseline))
		target, f := r.target(s), r.flow()
		if r.chance(50) {
			f = r.toService(s)
		}
		far := netip.AddrPortFrom(f.peer, 0)
		if f.dir == ruleset.Egress {
			far = netip.AddrPortFrom(f.peer, f.port)
		}
		whole := policy.New(s)
		part := whole.Part(policy.Part{Pods: []policy.Pod{target.Pod}, Far: []netip.AddrPort{far}, Node: target.Node})
		want, got := f.accepted(whole.Compile(target)), f.accepted(policy.New(part).Compile(target))
		if got != want {
			t.Fatalf("%s/%s %s %v %s %d: accepted is %t in the part, %t in all\npart %+v\nall %+v",
				target.Pod.Namespace, target.Pod.Name, f.dir, f.peer, f.proto, f.port, got, want, part, s)
		}
		verdicts[want]++
		if len(part.Pods) < len(s.Pods) {
			smaller++
		}
	}
	if min(verdicts[true], verdicts[false]) < 200 || smaller < 2000 {
		t.Errorf("verdicts %v, %d parts smaller than the whole: the clusters are too much alike", verdicts, smaller)
	}
}

func TestPartHasOnePodOfEachKin(t *testing.T) {
	var s policy.Snapshot
	for i := range 40 {
		s.Pods = append(s.Pods, policy.Pod{Namespace: fmt.Sprint("ns", i%2), Name: fmt.Sprintf("p%02d", i),
			Labels: policy.Labels{"app": fmt.Sprint(i % 8)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	gone := ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "gone"}
	s.Policies = []policy.Policy{{Ref: gone, Subject: policy.PodSet{Namespace: "shop", Pods: policy.Selector{All: true}}}}
	got := policy.New(s).Part(policy.Part{Pods: s.Pods[:1], Policies: []ruleset.Ref{gone},
		Kin: func(l policy.Labels) string { return l["app"] }})
	var names []string
	for _, p := range got.Pods {
		names = append(names, fmt.Sprint(p.Name, " ", len(p.Addresses)))
	}
	if want := []string{"p00 1", "p02 0", "p04 0", "p06 0"}; !reflect.DeepEqual(names, want) {
		t.Errorf("pods with the number of their addresses: %q, want %q", names, want)
	}
	if len(got.Policies) != 1 {
		t.Errorf("%d policies, want the one that was asked for", len(got.Policies))
	}
}
