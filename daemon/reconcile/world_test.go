package reconcile

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// attached is a record of shop/name: the container's id, which also says in
// which order they came, the pod's UID, and addresses.
func attached(id byte, name, uid string, addrs ...string) store.Record {
	return store.Record{
		Attachment: api.Attachment{Key: api.Key{ContainerID: string(id), Interface: "eth0"}, Network: "net",
			Namespace: "shop", Name: name, UID: uid, Addresses: parsed(addrs)},
		AddedAt: time.Unix(int64(id), 0),
	}
}

func parsed(addrs []string) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func listed(name, uid, node string, addrs ...string) policy.Pod {
	return policy.Pod{Namespace: "shop", Name: name, UID: uid, Node: node, Addresses: parsed(addrs),
		Labels: policy.Labels{"app": name}}
}

// unlabelled is a pod of this node that the source does not list.
func unlabelled(name, uid string, addrs ...string) policy.Pod {
	p := listed(name, uid, "here", addrs...)
	p.Labels = nil
	return p
}

// What the cluster looks like from a node that knows its own pods better.
func TestPods(t *testing.T) {
	hostNetwork := listed("web", "u1", "here", "192.0.2.1")
	hostNetwork.HostNetwork = true
	other := attached('b', "web", "u1", "10.0.0.3")
	other.Network, other.Addresses = "other", parsed([]string{"10.0.0.2"})
	tests := []struct {
		name     string
		source   []policy.Pod
		attached []store.Record
		want     []policy.Pod
	}{
		{"a pod of another node is what its manifest says",
			[]policy.Pod{listed("far", "", "there", "10.9.0.1")}, nil,
			[]policy.Pod{listed("far", "", "there", "10.9.0.1")}},
		{"the addresses that ADD gave win over the manifest's",
			[]policy.Pod{listed("web", "", "", "10.9.9.9")}, []store.Record{attached('a', "web", "u1", "10.0.0.2")},
			[]policy.Pod{listed("web", "", "here", "10.0.0.2")}},
		{"an attached pod is not on the host's network, whatever its manifest says",
			[]policy.Pod{hostNetwork}, []store.Record{attached('a', "web", "u1", "10.0.0.2")},
			[]policy.Pod{listed("web", "u1", "here", "10.0.0.2")}},
		{"a pod without a manifest has no labels",
			nil, []store.Record{attached('a', "web", "u1", "10.0.0.2")},
			[]policy.Pod{unlabelled("web", "u1", "10.0.0.2")}},
		{"an address that is attached here is no other pod's (E3)",
			[]policy.Pod{listed("ended", "", "here", "10.0.0.2", "10.0.0.9")}, []store.Record{attached('a', "web", "", "10.0.0.2")},
			[]policy.Pod{listed("ended", "", "here", "10.0.0.9"), unlabelled("web", "", "10.0.0.2")}},
		{"several interfaces are one pod",
			[]policy.Pod{listed("web", "u1", "")},
			[]store.Record{attached('a', "web", "u1", "10.0.0.2"), attached('b', "web", "u1", "10.1.0.2", "fd00::2")},
			[]policy.Pod{listed("web", "u1", "here", "10.0.0.2", "10.1.0.2", "fd00::2")}},
		{"an old sandbox of the same name is another pod (E2)",
			[]policy.Pod{listed("web", "new", "")},
			[]store.Record{attached('a', "web", "old", "10.0.0.2"), attached('b', "web", "new", "10.0.0.3")},
			[]policy.Pod{listed("web", "new", "here", "10.0.0.3"), unlabelled("web/old", "old", "10.0.0.2")}},
		{"two sandboxes of a name that nobody lists are two pods",
			nil, []store.Record{attached('a', "web", "old", "10.0.0.2"), attached('b', "web", "new", "10.0.0.3")},
			[]policy.Pod{unlabelled("web", "new", "10.0.0.3"), unlabelled("web/old", "old", "10.0.0.2")}},
		{"pods without a name are several",
			nil, []store.Record{attached('a', "", "", "10.0.0.2"), attached('b', "", "", "10.0.0.3")},
			[]policy.Pod{unlabelled("a/eth0", "", "10.0.0.2"), unlabelled("b/eth0", "", "10.0.0.3")}},
		{"an address that two have on one network is the newer's",
			[]policy.Pod{listed("db", "", ""), listed("web", "", "")},
			[]store.Record{attached('b', "web", "", "10.0.0.2"), attached('a', "db", "", "10.0.0.2", "fd00::2")},
			[]policy.Pod{listed("db", "", "here", "fd00::2"), listed("web", "", "here", "10.0.0.2")}},
		{"on two networks it may be both's",
			[]policy.Pod{listed("db", "", ""), listed("web", "", "")},
			[]store.Record{other, attached('a', "db", "", "10.0.0.2")},
			[]policy.Pod{listed("db", "", "here", "10.0.0.2"), listed("web", "", "here", "10.0.0.2")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.Update(everything(policy.Snapshot{Pods: tt.source}))
			b.Restore(tt.attached)
			opts := []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}),
				cmpopts.SortSlices(func(a, b policy.Pod) bool { return a.Name < b.Name })}
			if diff := cmp.Diff(tt.want, slices.Collect(b.world.Pods()), opts...); diff != "" {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
			for _, a := range b.attachments { // each finds itself again
				if p := b.podOf(b.policy(), a); !sameUID(p.UID, a.record.UID) || p.Namespace != "shop" {
					t.Errorf("attachment %s belongs to %s/%s %s", a.record.Key, p.Namespace, p.Name, p.UID)
				}
			}
		})
	}
}

// Publishing the same World again must not depend on what was done with it.
func TestWorldIsNotChanged(t *testing.T) {
	b := newBench(t)
	s := policy.Snapshot{Pods: []policy.Pod{listed("ended", "", "here", "10.0.0.2", "10.0.0.9")}}
	b.Update(everything(s))
	b.Restore([]store.Record{attached('a', "web", "", "10.0.0.2")})
	if diff := cmp.Diff([]policy.Pod{listed("ended", "", "here", "10.0.0.2", "10.0.0.9")}, s.Pods, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the source's pods (-before +after):\n%s", diff)
	}
}

// The node is reached at the addresses that it has and those that it is said to
// have.
func TestNodeHasAddressesOfBothKinds(t *testing.T) {
	b := newBench(t)
	b.Update(everything(policy.Snapshot{Nodes: []policy.Node{
		{Name: "here", Addresses: parsed([]string{"192.0.2.7", "10.0.0.1"})},
		{Name: "there", Addresses: parsed([]string{"192.0.2.8"})},
	}}))
	if err := b.Refresh(); err != nil {
		t.Fatal(err)
	}
	want := parsed([]string{"10.0.0.1", "192.0.2.7"})
	if diff := cmp.Diff(want, b.node(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
}
