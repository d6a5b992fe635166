package reconcile

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random histories")

// A history is what happens to a few pods while the daemon lives, is killed, and
// lives again: ADDs that end, fail, are cut off or overlap, DELs, GC, sweeps and
// new Worlds, all at once, before a kernel and a store that fail now and then.
type history struct {
	t          *testing.T
	rand       func(n int) int // safe for several goroutines
	containers []*container
	world      atomic.Int64 // number of the World
	failing    atomic.Bool  // kernel and store fail now and then
}

// A container is a pod's as its runtime sees it. Only one goroutine calls it.
type container struct {
	ns    *netnstest.NS
	added *api.Attachment // what ADD has returned for, and DEL has not
	n     int             // ADDs so far
}

func newHistory(t *testing.T) *history {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(*seed, 0))
	h := &history{t: t, rand: func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(n)
	}}
	for range 6 {
		h.containers = append(h.containers, &container{ns: netnstest.New(t)})
	}
	return h
}

// snapshot is World n: policies and labels that differ from one to the next. Its
// number is in each rule set, as the name of a policy that selects everybody.
func snapshot(n int64) policy.Snapshot {
	s := shop()
	s.Pods = nil
	for i := range 8 {
		p := policy.Pod{Namespace: "shop", Name: fmt.Sprint("p", i), Labels: policy.Labels{"app": []string{"web", "fe", "db"}[(int64(i)+n)%3]}}
		if (int64(i)+n)%5 != 0 { // some have no manifest
			s.Pods = append(s.Pods, p)
		}
	}
	s.Policies = append(s.Policies, policy.Policy{
		Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: fmt.Sprintf("world-%06d", n)},
		Subject: policy.PodSet{Namespace: "shop", Pods: policy.Selector{All: true}},
		Ingress: policy.Side{Applies: true}, Egress: policy.Side{Applies: n%2 == 0},
	})
	return s
}

// worldOf is the number of the World that rs was compiled from; 0 if there are no
// rules.
func worldOf(rs ruleset.RuleSet) (n int) {
	for _, t := range rs.Ingress.Tiers {
		for _, ref := range t.Selected {
			if _, err := fmt.Sscanf(ref.Name, "world-%d", &n); err == nil {
				return n
			}
		}
	}
	return 0
}

// bench puts a new daemon before kernel and records, and returns it with the
// store that it writes to.
func (h *history) bench(kernel *fakeKernel, records []store.Record) *bench {
	b := newBench(h.t)
	b.kernel, b.Kernel, b.Parallel = kernel, kernel.kernel(), 3
	kernel.before = func(ns uint64, rs ruleset.RuleSet) error {
		if was := worldOf(kernel.rules(ns, "eth0")); was > worldOf(rs) {
			h.t.Errorf("rules of World %d replace those of World %d", worldOf(rs), was)
		}
		return h.sometimes()
	}
	kernel.after = func(uint64, ruleset.RuleSet) error { return h.sometimes() }
	for _, r := range records {
		b.store.records[r.Key] = r
	}
	b.store.fail = func(string) error { return h.sometimes() }
	b.Restore(records)
	b.Update(everything(snapshot(h.world.Load())))
	return b
}

func (h *history) sometimes() error {
	if h.failing.Load() && h.rand(20) == 0 {
		return errInjected
	}
	return nil
}

// add is an ADD as a runtime sees it: if it fails, a DEL follows.
func (h *history) add(ctx context.Context, b *bench, c *container, i int) {
	c.n++
	a := pod(c.ns, fmt.Sprint("p", i), fmt.Sprintf("10.0.%d.%d", i, c.n%250+1))
	end := h.rand(4)
	ad, err := b.Begin(a, fd(h.t, c.ns))
	if err == nil && end == 0 { // a second one overtakes the first
		first := ad
		a.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i), byte(c.n%250 + 1)})}
		if ad, err = b.Begin(a, fd(h.t, c.ns)); err != nil {
			ad = first
		} else {
			defer first.Abort()
		}
	}
	if err == nil && end == 1 { // the plugin dies
		ad.Abort()
		err = errInjected
	} else if err == nil {
		err = ad.Finish(ctx, b.installed(c.ns, ad))
	}
	if err != nil {
		h.del(ctx, b, c, a.Key)
		return
	}
	c.added = &a
}

// del repeats a DEL until it succeeds, as the plugin's queue does.
func (h *history) del(ctx context.Context, b *bench, c *container, key api.Key) {
	c.added = nil
	for ctx.Err() == nil && b.Delete(key) != nil {
		runtime.Gosched()
	}
}

// live is one container's life until ctx ends or its acts are done.
func (h *history) live(ctx context.Context, b *bench, c *container, i int) {
	for range 15 {
		if ctx.Err() != nil {
			return
		}
		switch h.rand(4) {
		case 0:
			if c.added != nil {
				h.del(ctx, b, c, c.added.Key)
			}
		case 1:
			b.kernel.touch(inode(c.ns.FD()))
		default:
			h.add(ctx, b, c, i)
		}
	}
}

// phase is one life of the daemon. It ends with a kill if killed is set: what is
// under way then is neither done nor undone.
func (h *history) phase(b *bench, killed bool) (records []store.Record) {
	ctx, cancel := context.WithCancel(h.t.Context())
	stop := b.rounds(h.t)
	var containers, others sync.WaitGroup
	for i, c := range h.containers {
		containers.Go(func() { h.live(ctx, b, c, i) })
	}
	others.Go(func() {
		for ctx.Err() == nil {
			switch h.rand(6) {
			case 0:
				b.Update(everything(snapshot(h.world.Add(1))))
			case 1:
				_ = b.Keep("another", nil)
			case 2:
				b.Pods()
			default:
				b.sweep(ctx)
			}
		}
	})
	if !killed {
		containers.Wait()
	} else {
		time.Sleep(time.Duration(h.rand(8)) * time.Millisecond)
		records = b.store.kill()
	}
	cancel()
	containers.Wait()
	others.Wait()
	stop()
	return records
}

// want is the rule set of container i, from the World and the live containers
// alone.
func (h *history) want(i int) ruleset.RuleSet {
	s := snapshot(h.world.Load())
	var target policy.Pod
	for j, c := range h.containers {
		if c.added == nil {
			continue
		}
		p := policy.Pod{Namespace: "shop", Name: fmt.Sprint("p", j)}
		at := -1
		for n := range s.Pods {
			if s.Pods[n].Name == p.Name {
				at, p = n, s.Pods[n]
			}
		}
		p.Node, p.Addresses = "here", c.added.Addresses
		if at >= 0 {
			s.Pods[at] = p
		} else {
			s.Pods = append(s.Pods, p)
		}
		if j == i {
			target = p
		}
	}
	return policy.New(s).Compile(policy.Target{Pod: target, Addresses: target.Addresses, Node: []netip.Addr{nodeAddr}})
}

// judge compares what stands at rest with what should.
func (h *history) judge(b *bench, when string) {
	h.failing.Store(false)
	defer h.failing.Store(true)
	b.sweep(h.t.Context())
	b.round(h.t.Context())
	keys := map[api.Key]bool{}
	for i, c := range h.containers {
		if c.added == nil {
			continue
		}
		keys[c.added.Key] = true
		if got, want := b.kernel.rules(inode(c.ns.FD()), "eth0"), h.want(i); !reflect.DeepEqual(got, want) {
			h.t.Errorf("%s: rules of p%d (-want +got):\n%s", when, i, cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})))
		}
	}
	known, stored := map[api.Key]bool{}, map[api.Key]bool{}
	for key := range b.attachments {
		known[key] = true
	}
	for _, r := range b.store.all() {
		stored[r.Key] = true
		// What stands may be what stood a sweep ago; it is looked at in any case.
		if a := b.attachments[r.Key]; a != nil && !reflect.DeepEqual(lasting(a.record), lasting(r)) {
			h.t.Errorf("%s: the store holds another record of %s:\n%s", when, r.Key, cmp.Diff(a.record, r, cmpopts.EquateComparable(netip.Addr{})))
		}
	}
	if !maps.Equal(known, keys) || !maps.Equal(stored, keys) {
		h.t.Errorf("%s:\nknown  %v\nstored %v\nwant   %v", when, known, stored, keys)
	}
}

// lasting is r without what was last installed.
func lasting(r store.Record) store.Record {
	return store.Record{Attachment: r.Attachment, NetnsID: r.NetnsID, Adopted: r.Adopted, AdoptedAt: r.AdoptedAt, AddedAt: r.AddedAt, Bypass: r.Bypass}
}

// After any history, every live attachment's rules are what policy.Compile makes
// of the final state, and nothing else is known or stored.
func TestAnyHistory(t *testing.T) {
	t.Logf("-seed %d", *seed)
	h := newHistory(t)
	kernel := newFakeKernel(t)
	var records []store.Record
	for life := range 12 {
		h.failing.Store(true)
		b := h.bench(kernel, records)
		killed := life%2 == 1
		records = h.phase(b, killed)
		if !killed {
			h.judge(b, fmt.Sprintf("life %d", life))
			records = b.store.all()
		} else {
			b = h.afterKill(kernel, records)
			h.judge(b, fmt.Sprintf("after the kill of life %d", life))
			records = b.store.all()
		}
		if t.Failed() {
			return
		}
	}
	for _, c := range h.containers {
		if n := descriptors(t, c.ns); n != 0 {
			t.Errorf("%d descriptors of a namespace are left", n)
		}
	}
}

// afterKill is the daemon after a kill. Each attachment whose ADD was answered is
// there; of those that were under way the runtime sends DELs.
func (h *history) afterKill(kernel *fakeKernel, records []store.Record) *bench {
	h.failing.Store(false)
	defer h.failing.Store(true)
	b := h.bench(kernel, records)
	for i, c := range h.containers {
		key := pod(c.ns, fmt.Sprint("p", i), "10.0.0.1").Key
		if c.added == nil {
			h.del(h.t.Context(), b, c, key)
		}
	}
	return b
}
