package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errInjected = errors.New("injected")

// A fakeKernel holds rule sets in memory, by namespace and interface.
type fakeKernel struct {
	t testing.TB
	// before is called before a transaction of the Keeper's, after once it is
	// there; an error is what Apply returns. Either may be nil.
	before, after func(netns uint64, rs ruleset.RuleSet) error

	mu         sync.Mutex
	standing   map[string]nft.Known
	generation map[uint64]uint32
	writes     int
}

func newFakeKernel(t testing.TB) *fakeKernel {
	return &fakeKernel{t: t, standing: map[string]nft.Known{}, generation: map[uint64]uint32{}}
}

func (f *fakeKernel) kernel() Kernel {
	return Kernel{Apply: f.apply, Check: f.check, Generation: f.gen,
		Counters: func(int) (map[string]nft.Count, error) { return map[string]nft.Count{}, nil }}
}

func inode(netns int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(netns, &st); err != nil {
		panic(err)
	}
	return st.Ino
}

func at(netns uint64, iface string) string { return fmt.Sprintf("%d/%s", netns, iface) }

func call(hook func(uint64, ruleset.RuleSet) error, netns uint64, rs ruleset.RuleSet) error {
	if hook == nil {
		return nil
	}
	return hook(netns, rs)
}

func (f *fakeKernel) apply(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
	ns := inode(netns)
	if err := call(f.before, ns, rs); err != nil {
		return nft.Known{}, false, err
	}
	now, wrote := f.put(ns, iface, rs, last)
	if err := call(f.after, ns, rs); err != nil {
		return nft.Known{}, false, err
	}
	return now, wrote, nil
}

// put makes rs stand, as the plugin or the Keeper would.
func (f *fakeKernel) put(ns uint64, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, ok := f.standing[at(ns, iface)]
	if last != nil && last.Generation == f.generation[ns] && !(ok && reflect.DeepEqual(last.Rules, was.Rules)) {
		f.t.Errorf("namespace %d, generation %d: the Keeper believes in rules that do not stand there", ns, last.Generation)
	}
	if ok && reflect.DeepEqual(was.Rules, rs) {
		was.Generation = f.generation[ns]
		return was, false
	}
	f.generation[ns]++
	f.writes++
	now := nft.Known{Rules: rs, Epoch: was.Epoch + 1, Generation: f.generation[ns]}
	f.standing[at(ns, iface)] = now
	return now, true
}

func (f *fakeKernel) rules(ns uint64, iface string) ruleset.RuleSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.standing[at(ns, iface)].Rules
}

// touch is a transaction of somebody else, in another table.
func (f *fakeKernel) touch(ns uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation[ns]++
}

func (f *fakeKernel) check(netns int, iface string, known nft.Known) ([]string, uint32, error) {
	ns := inode(netns)
	if reflect.DeepEqual(f.rules(ns, iface), known.Rules) {
		return nil, f.generation[ns], nil
	}
	return []string{"chain eth0.ingress: other rules"}, f.generation[ns], nil
}

func (f *fakeKernel) gen(netns int) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.generation[inode(netns)], nil
}

// A fakeStore holds records in memory.
type fakeStore struct {
	fail func(op string) error // may be nil

	mu      sync.Mutex
	records map[api.Key]store.Record
	puts    int
	killed  bool // nothing is written any more
}

func newFakeStore() *fakeStore { return &fakeStore{records: map[api.Key]store.Record{}} }

func (f *fakeStore) do(op string, change func()) error {
	if f.fail != nil {
		if err := f.fail(op); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.killed {
		return errInjected
	}
	change()
	return nil
}

func (f *fakeStore) Save(put []store.Record, gone []api.Key) error {
	op := "put"
	if len(put) == 0 {
		op = "delete"
	}
	return f.do(op, func() {
		f.puts++
		for _, r := range put {
			f.records[r.Key] = r
		}
		for _, key := range gone {
			delete(f.records, key)
		}
	})
}

func (f *fakeStore) all() []store.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.records))
}

// kill ends all writing and returns what was written.
func (f *fakeStore) kill() []store.Record {
	f.mu.Lock()
	f.killed = true
	f.mu.Unlock()
	return f.all()
}

func (f *fakeStore) has(key api.Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.records[key]
	return ok
}

// A bench is a Keeper with all it touches.
type bench struct {
	*Keeper
	kernel *fakeKernel
	store  *fakeStore
	log    io.Writer
}

var nodeAddr = netip.MustParseAddr("10.0.0.1")

// newBench makes a Keeper that has a World: what shop/web lets in comes from
// pods labelled app=fe.
func newBench(t testing.TB) *bench {
	b := &bench{Keeper: New(), kernel: newFakeKernel(t), store: newFakeStore()}
	b.Kernel, b.Store, b.Log, b.Node = b.kernel.kernel(), b.store, slog.New(slog.DiscardHandler), "here"
	b.NodeAddresses = func() ([]netip.Addr, error) { return []netip.Addr{nodeAddr}, nil }
	b.SetProtection(Protection{Tamper: daemonconf.TamperOff})
	b.Update(everything(shop(fe)))
	return b
}

var fe = policy.Pod{Namespace: "shop", Name: "fe", Labels: policy.Labels{"app": "fe"}}

// shop is a cluster in which shop/web lets in nobody but pods labelled app=fe.
func shop(pods ...policy.Pod) policy.Snapshot {
	app := func(name string) policy.PodSet {
		return policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{name}}}}}
	}
	return policy.Snapshot{
		Pods: append([]policy.Pod{{Namespace: "shop", Name: "web", Labels: policy.Labels{"app": "web"}}}, pods...),
		Policies: []policy.Policy{{
			Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"},
			Subject: app("web"),
			Ingress: policy.Side{Applies: true, Rules: []policy.Rule{{
				Action: ruleset.Accept,
				Peers:  []policy.Peer{{Pods: app("fe")}},
				Ports:  []policy.Port{{Ports: ruleset.AnyPort}},
			}}},
		}},
	}
}

// admits reports whether the rules that stand let addr in.
func (b *bench) admits(ns *netnstest.NS, addr string) bool {
	rs := b.kernel.rules(inode(ns.FD()), "eth0")
	for _, tier := range rs.Ingress.Tiers {
		for _, r := range tier.Rules {
			for _, m := range r.Matches {
				if tier.Name == ruleset.TierPolicy && m.Peers.Contains(netip.MustParseAddr(addr)) {
					return true
				}
			}
		}
	}
	return false
}

// pod is an attachment of shop/name in ns.
func pod(ns *netnstest.NS, name, addr string) api.Attachment {
	return api.Attachment{Key: api.Key{ContainerID: "of-" + name, Interface: "eth0"}, Netns: ns.Path(), Network: "net",
		Namespace: "shop", Name: name, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
}

// fd is a descriptor of ns that Begin may have.
func fd(t testing.TB, ns *netnstest.NS) *os.File {
	t.Helper()
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// installed does the plugin's part of an ADD.
func (b *bench) installed(ns *netnstest.NS, ad *Adding) api.Applied {
	now, _ := b.kernel.put(inode(ns.FD()), ad.a.record.Interface, ad.Rules, nil)
	return api.Applied{Epoch: now.Epoch, Generation: now.Generation}
}

// rounds runs the Keeper until what it returns is called.
func (b *bench) rounds(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// add adds a pod while rounds run.
func (b *bench) add(t testing.TB, ns *netnstest.NS, a api.Attachment) {
	t.Helper()
	defer b.rounds(t)()
	if err := b.tryAdd(t, ns, a); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) tryAdd(t testing.TB, ns *netnstest.NS, a api.Attachment) error {
	ad, err := b.Begin(a, fd(t, ns))
	if err != nil {
		return err
	}
	return ad.Finish(t.Context(), b.installed(ns, ad))
}

// descriptors counts those of this process that refer to ns, its own one apart.
func descriptors(t testing.TB, ns *netnstest.NS) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := -1
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target == fmt.Sprintf("net:[%d]", ns.Inode(t)) {
			n++
		}
	}
	return n
}

// owning makes every attachment's tables podwalld's own, so that rules which
// stand are written once more, by their owner.
func (b *bench) owning() { b.SetProtection(Protection{Tamper: daemonconf.TamperOn}) }

// everything is the Update of a source that knows s and no more.
func everything(s policy.Snapshot) source.Update {
	return source.Update{Whole: true, Change: policy.Change{Set: s}}
}
