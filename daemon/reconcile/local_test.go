package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/policy"
)

// Whatever the source says and whatever is attached, in whatever order they came,
// the World has the pods that it would have if all had come at once.
func TestPodsFollowTheSourceAndTheAttachments(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Log("seed", seed)
		}
	}()
	name := func() string { return []string{"web", "db", "fe"}[r.IntN(3)] }
	uid := func() string { return []string{"", "u1", "u2"}[r.IntN(3)] }
	some := func() (addrs []string) {
		for range r.IntN(3) {
			addrs = append(addrs, fmt.Sprint("10.0.0.", r.IntN(5)))
		}
		return addrs
	}
	for range 200 {
		b := newBench(t)
		b.Update(everything(policy.Snapshot{}))
		known := map[policy.Name]policy.Pod{}
		for range 30 {
			switch r.IntN(6) {
			case 0, 1:
				p := listed(name(), uid(), "there", some()...)
				p.HostNetwork = r.IntN(5) == 0
				known[nameOf(p)] = p
				b.Update(source.Update{Change: policy.Change{Set: policy.Snapshot{Pods: []policy.Pod{p}}}})
			case 2:
				gone := policy.Name{Namespace: "shop", Name: name()}
				delete(known, gone)
				b.Update(source.Update{Change: policy.Change{Gone: policy.Gone{Pods: []policy.Name{gone}}}})
			case 3:
				record := attached(byte('a'+r.IntN(5)), []string{name(), ""}[r.IntN(5)/4], uid(), some()...)
				record.Network = []string{"net", "other"}[r.IntN(2)]
				b.attach(&attachment{record: record})
			case 4:
				for _, a := range b.attachments {
					b.detach(a)
					break
				}
			case 5:
				b.Update(everything(policy.Snapshot{Pods: slices.Collect(maps.Values(known))}))
			}
			got, want := slices.Collect(b.world.Pods()), b.wanted(known)
			opts := []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}),
				cmpopts.SortSlices(func(a, b policy.Pod) bool { return a.Name < b.Name })}
			if diff := cmp.Diff(want, got, opts...); diff != "" {
				t.Fatalf("pods (-want +got):\n%s", diff)
			}
		}
		for _, a := range b.attachments {
			b.detach(a)
		}
		if n := len(b.locals.of) + len(b.locals.at) + len(b.locals.listed) + len(b.locals.beyond); n > 0 {
			t.Fatalf("without attachments %+v is left", b.locals)
		}
	}
}

// wanted are the pods of a node that knows its own better than the source.
func (b *bench) wanted(known map[policy.Name]policy.Pod) []policy.Pod {
	local := map[policy.Name][]*attachment{}
	taken := map[netip.Addr]bool{}
	for _, a := range b.attachments {
		local[a.pod()] = append(local[a.pod()], a)
		for _, addr := range a.record.Addresses {
			taken[addr] = true
		}
	}
	var pods []policy.Pod
	for name, p := range known {
		mine, others := split(local[name], p.UID)
		if len(mine) > 0 {
			p.Addresses, p.Node, p.HostNetwork = b.holding(mine), b.Node, false
		} else {
			p.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), func(a netip.Addr) bool { return taken[a] })
		}
		pods = append(pods, p)
		local[name] = others
	}
	for name, as := range local {
		_, named := known[name]
		byUID := map[string][]*attachment{}
		for _, a := range as {
			byUID[a.record.UID] = append(byUID[a.record.UID], a)
		}
		for _, uid := range slices.Sorted(maps.Keys(byUID)) {
			p := b.unlisted(byUID[uid][0])
			p.Addresses = b.holding(byUID[uid])
			if named {
				p.Name = strangerName(p.Name, uid)
			}
			pods, named = append(pods, p), true
		}
	}
	return pods
}

// holding are the addresses that these attachments have, and no newer one on the
// same network.
func (b *bench) holding(as []*attachment) []netip.Addr {
	type place struct {
		network string
		addr    netip.Addr
	}
	newest := map[place]*attachment{}
	for _, a := range b.attachments {
		for _, addr := range a.record.Addresses {
			if at := (place{a.record.Network, addr}); newest[at] == nil || newest[at].olderThan(a) {
				newest[at] = a
			}
		}
	}
	held := map[netip.Addr]bool{}
	for at, a := range newest {
		if slices.Contains(as, a) {
			held[at.addr] = true
		}
	}
	return slices.SortedFunc(maps.Keys(held), netip.Addr.Compare)
}
