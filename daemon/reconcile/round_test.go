package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// restarted is b after a restart of the daemon, in front of the same kernel and
// the same store, before the source has spoken.
func restarted(t testing.TB, b *bench) *bench {
	t.Helper()
	b.stored(t)
	again := newBench(t)
	again.kernel, again.Kernel = b.kernel, b.kernel.kernel()
	again.store, again.Store = b.store, b.store
	again.synced = time.Time{}
	again.Restore(b.store.all())
	return again
}

// stored makes the store hold all that the Keeper knows, as the next sweep would.
func (b *bench) stored(t testing.TB) []store.Record {
	t.Helper()
	if err := b.saveAll(); err != nil {
		t.Error(err)
	}
	return b.store.all()
}

func TestRestartWritesNothing(t *testing.T) {
	b := newBench(t)
	web, front := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	b.add(t, front, pod(front, "fe", "10.0.0.3"))
	b.round(t.Context())
	b.stored(t)
	writes, puts := b.kernel.writes, b.store.puts

	b = restarted(t, b)
	b.round(t.Context())
	if b.kernel.writes != writes || b.Counts()[api.StatePending] != 2 {
		t.Errorf("before the source has spoken: %d writes, attachments %v", b.kernel.writes-writes, b.Counts())
	}
	if err := b.Refresh(); err != nil {
		t.Fatal(err)
	}
	b.Update(everything(shop(fe)))
	b.round(t.Context())
	if b.kernel.writes != writes || b.store.puts != puts {
		t.Errorf("%d writes to the kernel and %d to the store, want none", b.kernel.writes-writes, b.store.puts-puts)
	}
	if n := b.Counts()[api.StateEnforced]; n != 2 {
		t.Errorf("%d attachments are enforced, want 2", n)
	}
}

// A mesh that changes a table of its own moves the generation. podwall looks,
// finds its rules, and remembers the new number.
func TestForeignTransactionWritesNothing(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	writes := b.kernel.writes
	b.kernel.touch(inode(ns.FD()))
	b.sweep(t.Context())
	b.round(t.Context())
	if b.kernel.writes != writes {
		t.Errorf("%d writes, want none", b.kernel.writes-writes)
	}
	if got, want := b.stored(t)[0].Generation, b.kernel.generation[inode(ns.FD())]; got != want {
		t.Errorf("stored generation = %d, want %d", got, want)
	}
}

func TestForeignChangeIsRepaired(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	want := b.kernel.rules(inode(ns.FD()), "eth0").Revision()
	b.kernel.put(inode(ns.FD()), "eth0", ruleset.RuleSet{}, nil)
	if err := b.Check(pod(ns, "web", "10.0.0.2").Key, nil); err == nil {
		t.Error("CHECK finds nothing wrong")
	}
	b.sweep(t.Context())
	b.round(t.Context())
	if got := b.kernel.rules(inode(ns.FD()), "eth0").Revision(); got != want {
		t.Errorf("rules %s stand, want %s", got, want)
	}
	if err := b.Check(pod(ns, "web", "10.0.0.2").Key, nil); err != nil {
		t.Errorf("CHECK after the repair: %v", err)
	}
}

// What fails is tried again at each sweep, and said once.
func TestFailureIsRetriedAndSaidOnce(t *testing.T) {
	b := newBench(t)
	var log bytes.Buffer
	b.Log = slog.New(slog.NewTextHandler(&log, nil))
	web, front := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	tries := 0
	b.kernel.before = func(uint64, ruleset.RuleSet) error { tries++; return errInjected }
	ad, err := b.Begin(pod(front, "fe", "10.0.0.3"), fd(t, front))
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Abort()
	for range 3 {
		b.round(t.Context())
		b.sweep(t.Context())
	}
	if tries != 3 || b.Counts()[api.StateError] != 1 {
		t.Errorf("%d tries, attachments %v; want 3 and one in error", tries, b.Counts())
	}
	if n := strings.Count(log.String(), "rules not applied"); n != 1 {
		t.Errorf("the log says so %d times:\n%s", n, log.String())
	}
	if err := b.Check(pod(web, "web", "10.0.0.2").Key, nil); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("CHECK: %v, want unavailable", err)
	}
	b.kernel.before = nil
	b.round(t.Context())
	if !b.admits(web, "10.0.0.3") || b.Counts()[api.StateError] != 0 {
		t.Errorf("after the kernel came round: attachments %v", b.Counts())
	}
}

// Nobody is forgotten but those whose namespace is gone.
func TestNamespaceThatWentAway(t *testing.T) {
	tests := []struct {
		name  string
		after func(t *testing.T, b *bench, ns *netnstest.NS)
	}{
		{"its path is gone", func(_ *testing.T, _ *bench, ns *netnstest.NS) { ns.Close() }},
		{"its path leads to another one", func(t *testing.T, b *bench, ns *netnstest.NS) {
			key := pod(ns, "web", "10.0.0.2").Key
			b.attachments[key].record.Netns = netnstest.New(t).Path()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			web, front := netnstest.New(t), netnstest.New(t)
			b.add(t, web, pod(web, "web", "10.0.0.2"))
			b.add(t, front, pod(front, "fe", "10.0.0.3"))
			key := pod(web, "web", "10.0.0.2").Key
			tt.after(t, b, web)
			b.sweep(t.Context())
			b.round(t.Context())
			b.Keeper.store() // as Watch does after a round
			if b.Knows(key) || b.store.has(key) {
				t.Errorf("known %v, stored %v", b.Knows(key), b.store.has(key))
			}
			if n := b.Counts()[api.StateEnforced]; n != 1 {
				t.Errorf("%d attachments are enforced, want the other one", n)
			}
		})
	}
}

// A round that finds an old sandbox's namespace gone does not take the ADD with
// it that has the key by now.
func TestRoundForgetsOnlyWhatItLookedAt(t *testing.T) {
	b := newBench(t)
	old, ns := netnstest.New(t), netnstest.New(t)
	a := pod(old, "web", "10.0.0.2")
	b.add(t, old, a)
	stale := job{a: b.attachments[a.Key], version: b.version}
	a.Netns = ns.Path()
	b.add(t, ns, a)
	old.Close()
	b.carryOut(stale)
	if !b.Knows(a.Key) || !b.store.has(a.Key) {
		t.Errorf("the new attachment: known %v, stored %v", b.Knows(a.Key), b.store.has(a.Key))
	}
}

func TestOlderRulesNeverReplaceNewer(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	stale := job{a: b.attachments[a.Key], rules: ruleset.RuleSet{}, version: b.version - 1}
	b.carryOut(stale)
	if got := b.kernel.rules(inode(ns.FD()), "eth0"); !got.Isolated(ruleset.Ingress) || len(got.Addresses) == 0 {
		t.Errorf("rules of version %d replaced those of version %d", stale.version, b.version)
	}
}

// Nobody waiting for a version may take a round for one that was cut off.
func TestRoundThatIsCutOffDoesNotCount(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.SetNodeEgress(true)
	done := b.done
	b.round(ctx)
	if b.done != done {
		t.Errorf("version %d counts as reached, want %d as before", b.done, done)
	}
}

func TestSyncedSaysWhatIsMissing(t *testing.T) {
	b := newBench(t)
	if err := b.Synced(); err == nil || !strings.Contains(err.Error(), "looking at the pods") {
		t.Errorf("before the first round: %v", err)
	}
	b.round(t.Context())
	if err := b.Synced(); err != nil {
		t.Errorf("after it: %v", err)
	}
	k := New()
	if err := k.Synced(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("without a World: %v", err)
	}
	// An empty World in place of an unreadable one would open every pod.
	k.Update(source.Update{Whole: true, Unknown: "the directory is not there"})
	if err := k.Synced(); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "not there") {
		t.Errorf("with a World of which nothing is known: %v", err)
	}
	k.Update(source.Update{Whole: true})
	if err := k.Synced(); err == nil || !strings.Contains(err.Error(), "looking at the pods") {
		t.Errorf("once it is known to be empty: %v", err)
	}
}

// A node address is in the pods' rules with the round that follows it.
func TestNodeAddressesReachTheRules(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	next := netip.MustParseAddr("10.0.0.254")
	b.NodeAddresses = func() ([]netip.Addr, error) { return []netip.Addr{next, nodeAddr}, nil }
	if err := b.Refresh(); err != nil {
		t.Fatal(err)
	}
	b.round(t.Context())
	tier := b.kernel.rules(inode(ns.FD()), "eth0").Ingress.Tiers[0]
	if tier.Name != ruleset.TierNode || !tier.Rules[0].Matches[0].Peers.Contains(next) {
		t.Errorf("first tier = %+v, want the node's with %s", tier, next)
	}
	version := b.version
	b.NodeAddresses = func() ([]netip.Addr, error) { return []netip.Addr{nodeAddr, next, nodeAddr}, nil }
	if err := b.Refresh(); err != nil || b.version != version {
		t.Errorf("the same addresses in another order: version %d, want %d; error %v", b.version, version, err)
	}
}

// Of two that read the node's addresses at once, the later one's list holds.
func TestOlderAddressesNeverReplaceNewer(t *testing.T) {
	b := newBench(t)
	older, newer := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.254")
	refreshed := make(chan error, 1)
	var calls atomic.Int32
	b.NodeAddresses = func() ([]netip.Addr, error) {
		if calls.Add(1) > 1 {
			return []netip.Addr{newer}, nil
		}
		go func() { refreshed <- b.Refresh() }()
		select {
		case err := <-refreshed: // before the older list is noted
			refreshed <- err
		case <-time.After(20 * time.Millisecond):
		}
		return []netip.Addr{older}, nil
	}
	if err := errors.Join(b.Refresh(), <-refreshed); err != nil {
		t.Fatal(err)
	}
	if len(b.nodeAddrs) != 1 || b.nodeAddrs[0] != newer {
		t.Errorf("addresses = %v, want %s", b.nodeAddrs, newer)
	}
}

func TestNodeEgressFollowsItsSwitch(t *testing.T) {
	b := newBench(t)
	s := shop()
	s.Policies[0].Egress.Applies = true
	b.Update(everything(s))
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	for _, byPolicy := range []bool{false, true, false} {
		b.SetNodeEgress(byPolicy)
		b.round(t.Context())
		tier := b.kernel.rules(inode(ns.FD()), "eth0").Egress.Tiers[0]
		if got := tier.Name != ruleset.TierNode; got != byPolicy {
			t.Errorf("node egress by policy %v: the first tier is %s", byPolicy, tier.Name)
		}
	}
}

// UDP flows of an adopted pod are taken for old ones for a while, which begins
// with its first rules, and TCP flows for ever.
func TestGraceOfAdoptedPods(t *testing.T) {
	ns := netnstest.New(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var ready atomic.Bool
		b.kernel.before = func(uint64, ruleset.RuleSet) error {
			if ready.Load() {
				return nil
			}
			return errInjected
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = b.Run(ctx) }()
		go func() { _ = b.Watch(ctx, 5*time.Second) }()
		defer synctest.Wait()
		defer cancel()
		a := pod(ns, "web", "10.0.0.2")
		f := fd(t, ns)
		defer f.Close()
		id, err := NetnsIDOf(f)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Adopt(store.Record{Attachment: a, NetnsID: id, Adopted: ruleset.AdoptedNow, AdoptedAt: stamp()}) {
			t.Fatal("not adopted")
		}
		adopted := func(when string, want ruleset.Adoption) {
			t.Helper()
			synctest.Wait()
			if got := b.kernel.rules(inode(ns.FD()), "eth0").Adopted; got != want {
				t.Errorf("%s: adoption = %d, want %d", when, got, want)
			}
		}
		time.Sleep(2 * grace)
		ready.Store(true)
		time.Sleep(5 * time.Second)
		adopted("when the kernel took the rules at last", ruleset.AdoptedNow)
		time.Sleep(grace - 6*time.Second)
		adopted("shortly before the end", ruleset.AdoptedNow)
		time.Sleep(11 * time.Second)
		adopted("after the end", ruleset.AdoptedTCP)
		time.Sleep(time.Hour)
		adopted("much later", ruleset.AdoptedTCP)
	})
}

func TestClockThatWasSetBackEndsTheGrace(t *testing.T) {
	for name, tt := range map[string]struct {
		start time.Time
		want  bool
	}{
		"now":             {time.Now(), false},
		"a minute ago":    {time.Now().Add(-time.Minute), true},
		"in a year":       {time.Now().AddDate(1, 0, 0), true},
		"nobody knows it": {time.Time{}, true},
	} {
		if got := over(tt.start); got != tt.want {
			t.Errorf("grace that began %s is over: %v, want %v", name, got, tt.want)
		}
	}
}

// A round does not wait for a disk, whatever it has done: a remote pod that comes
// meanwhile would wait with it.
func TestRoundDoesNotWaitForTheDisk(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	adopted := pod(ns, "web", "10.0.0.2")
	id, err := NetnsIDOf(fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	gone := attached('b', "gone", "")
	gone.Netns = filepath.Join(t.TempDir(), "gone")
	b.store.records[gone.Key] = gone
	b.Restore([]store.Record{gone})
	if !b.Adopt(store.Record{Attachment: adopted, NetnsID: id}) {
		t.Fatal("not adopted")
	}
	wait := make(chan struct{})
	b.store.fail = func(string) error { <-wait; return nil }
	ended := make(chan struct{})
	go func() { b.round(t.Context()); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the round waits")
	}
	if b.Knows(gone.Key) || b.Counts()[api.StateEnforced] != 1 {
		t.Errorf("known are %v, %v", b.keys(), b.Counts())
	}
	close(wait)
	select {
	case <-b.late:
		b.Keeper.store()
	default:
		t.Error("nobody is asked to store it")
	}
	if b.store.has(gone.Key) || !b.store.has(adopted.Key) {
		t.Errorf("the store has %v", b.store.all())
	}
}

// Attachments in one namespace must not take each other's epoch.
func TestRememberedKnowsItsNeighbours(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	eth0, net1 := pod(ns, "web", "10.0.0.2"), pod(ns, "web", "10.1.0.2")
	net1.Interface = "net1"
	b.add(t, ns, eth0)
	b.add(t, ns, net1)
	b.sweep(t.Context())
	b.round(t.Context())
	b = restarted(t, b)
	r := b.attachments[eth0.Key].record
	rules := b.kernel.rules(inode(ns.FD()), "eth0")
	known := b.remembered(r, rules)
	want := b.attachments[net1.Key].record.Epoch
	if known == nil || len(known.Others) != 1 || known.Others[0] != want {
		t.Errorf("remembered = %+v, want the other's epoch %d", known, want)
	}
	if got := b.remembered(r, ruleset.RuleSet{}); got != (*nft.Known)(nil) {
		t.Errorf("remembered other rules than were stored: %+v", got)
	}
}
