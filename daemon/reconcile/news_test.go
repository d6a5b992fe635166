package reconcile

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/policy"
)

// node is a bench in front of the kernel with so many attachments, each of which
// lets in so many peers.
func node(t testing.TB, local, remote int) *bench {
	b := newBench(t)
	b.Kernel = RealKernel
	var pods []policy.Pod
	for i := range remote {
		pods = append(pods, peer(i))
	}
	var records []store.Record
	for i := range local {
		ns := netnstest.New(t)
		if err := ns.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far"}); err != nil {
			t.Fatal(err)
		}
		f := fd(t, ns)
		id, err := NetnsIDOf(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("p", i)
		records = append(records, store.Record{NetnsID: id, Attachment: api.Attachment{Key: api.Key{ContainerID: name, Interface: "eth0"},
			Netns: ns.Path(), Network: "net", Namespace: "shop", Name: name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{11, 0, 0, byte(i)})}}})
		pods = append(pods, policy.Pod{Namespace: "shop", Name: name, Labels: policy.Labels{"app": "web"}})
	}
	b.Restore(records)
	b.Update(everything(shop(pods...)))
	b.round(t.Context())
	if n := b.Counts()[api.StateEnforced]; n != local {
		t.Fatalf("%d attachments are enforced, want %d", n, local)
	}
	return b
}

func peer(i int) policy.Pod {
	return policy.Pod{Namespace: "shop", Name: fmt.Sprint("r", i), Labels: policy.Labels{"app": "fe"}, Node: "there",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}
}

// BenchmarkNews is how long it takes until the last of 110 local pods has a peer
// in its rules that has come, or no more one that has gone.
func BenchmarkNews(b *testing.B) {
	for _, remote := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(remote, "-peers"), func(b *testing.B) {
			k := node(b, 110, remote)
			p := peer(remote)
			news := [...]policy.Change{
				{Set: policy.Snapshot{Pods: []policy.Pod{p}}},
				{Gone: policy.Gone{Pods: []policy.Name{nameOf(p)}}},
			}
			var took [len(news)]time.Duration
			n := 0
			for ; b.Loop(); n++ {
				start := time.Now()
				k.Update(source.Update{Change: news[n%2]})
				k.round(b.Context())
				took[n%2] += time.Since(start)
			}
			b.ReportMetric(float64(took[0].Microseconds())/float64(n/2+n%2), "µs/come")
			b.ReportMetric(float64(took[1].Microseconds())/float64(max(n/2, 1)), "µs/go")
		})
	}
}
