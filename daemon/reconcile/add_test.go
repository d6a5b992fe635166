package reconcile

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

// When Finish returns, the attachment is durable and other pods' rules know it.
func TestFinishMeansInForce(t *testing.T) {
	b := newBench(t)
	web, front := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	if b.admits(web, "10.0.0.3") {
		t.Fatal("shop/web admits 10.0.0.3 before anybody has that address")
	}
	b.add(t, front, pod(front, "fe", "10.0.0.3"))
	if !b.admits(web, "10.0.0.3") {
		t.Error("shop/web does not admit shop/fe after its ADD")
	}
	for _, name := range []string{"web", "fe"} {
		if key := pod(web, name, "10.0.0.2").Key; !b.store.has(key) {
			t.Errorf("%s is not in the store", key)
		}
	}
	for _, ns := range []*netnstest.NS{web, front} {
		if n := descriptors(t, ns); n != 0 {
			t.Errorf("%d descriptors pin the namespace", n)
		}
	}
}

// Whichever step of an ADD fails, nothing of it is left.
func TestFailedAddLeavesNothing(t *testing.T) {
	unsynced := func(b *bench) { b.synced = time.Time{} }
	tests := []struct {
		name  string
		spoil func(*bench)
		want  error // as errors.Is sees it
	}{
		{"the source has not spoken", unsynced, api.ErrUnavailable},
		{"the node's addresses can't be read", func(b *bench) {
			b.NodeAddresses = func() ([]netip.Addr, error) { return nil, errInjected }
		}, errInjected},
		{"the kernel refuses the last rules", func(b *bench) {
			b.owning()
			b.kernel.before = func(uint64, ruleset.RuleSet) error { return errInjected }
		}, api.ErrUnavailable},
		{"the kernel takes them and then fails", func(b *bench) {
			b.owning()
			b.kernel.after = func(uint64, ruleset.RuleSet) error { return errInjected }
		}, api.ErrUnavailable},
		{"the store can't be written", func(b *bench) {
			b.store.fail = func(op string) error {
				if op == "put" {
					return errInjected
				}
				return nil
			}
		}, api.ErrUnavailable},
		{"the store can't even forget", func(b *bench) {
			b.store.fail = func(string) error { return errInjected }
		}, api.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			tt.spoil(b)
			defer b.rounds(t)()
			ns := netnstest.New(t)
			a := pod(ns, "web", "10.0.0.2")
			if err := b.tryAdd(t, ns, a); !errors.Is(err, tt.want) {
				t.Errorf("ADD: %v, want %v", err, tt.want)
			}
			if b.Knows(a.Key) || b.store.has(a.Key) {
				t.Errorf("after the ADD failed: known %v, stored %v", b.Knows(a.Key), b.store.has(a.Key))
			}
			if n := descriptors(t, ns); n != 0 {
				t.Errorf("%d descriptors are left", n)
			}
		})
	}
}

func TestBeginWantsAPodsNamespace(t *testing.T) {
	b := newBench(t)
	for name, path := range map[string]string{"a file": os.DevNull, "the node's namespace": "/proc/self/ns/net", "a namespace of mounts": "/proc/self/ns/mnt"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Begin(api.Attachment{Key: api.Key{ContainerID: "c", Interface: "eth0"}}, f)
		if !errors.Is(err, api.ErrInvalid) {
			t.Errorf("Begin with %s: %v, want an invalid request", name, err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Begin with %s left its descriptor open", name)
		}
	}
}

// A plugin that dies after it was given rules leaves its address nowhere.
func TestAbortTakesTheAddressBack(t *testing.T) {
	b := newBench(t)
	web, front := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	ad, err := b.Begin(pod(front, "fe", "10.0.0.3"), fd(t, front))
	if err != nil {
		t.Fatal(err)
	}
	b.round(t.Context())
	if !b.admits(web, "10.0.0.3") {
		t.Fatal("shop/web does not know shop/fe while that is being added")
	}
	ad.Abort()
	b.round(t.Context())
	if b.admits(web, "10.0.0.3") {
		t.Error("shop/web admits 10.0.0.3 after the ADD was aborted")
	}
	if n := descriptors(t, front); n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

func TestFinishGivesUpWithItsContext(t *testing.T) {
	b := newBench(t) // no rounds
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	ad, err := b.Begin(a, fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ad.Finish(ctx, b.installed(ns, ad)); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("Finish: %v, want unavailable", err)
	}
	if b.Knows(a.Key) {
		t.Error("the attachment is still known")
	}
}

// gone waits until the attachment of shop/name is not known any more.
func (b *bench) gone(name string) {
	for b.Knows(api.Key{ContainerID: "of-" + name, Interface: "eth0"}) {
		runtime.Gosched()
	}
}

// Whatever a DEL meets of an ADD, afterwards there is nothing.
func TestDeleteInTheMiddleOfAdd(t *testing.T) {
	tests := []struct {
		name string
		at   func(b *bench, del func()) // arranges for del to be called
	}{
		{"while the last rules are written", func(b *bench, del func()) {
			b.owning()
			b.kernel.before = func(uint64, ruleset.RuleSet) error {
				b.kernel.before = nil
				go del() // waits for this transaction
				b.gone("web")
				return nil
			}
		}},
		{"while it is being stored", func(b *bench, del func()) {
			b.store.fail = func(op string) error {
				if op == "put" {
					b.store.fail = nil
					go del() // waits for its turn at the store
					b.gone("web")
				}
				return nil
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			ns := netnstest.New(t)
			a := pod(ns, "web", "10.0.0.2")
			ad, err := b.Begin(a, fd(t, ns))
			if err != nil {
				t.Fatal(err)
			}
			deleted := make(chan error, 1)
			tt.at(b, func() { deleted <- b.Delete(a.Key) })
			b.round(t.Context())
			if err := ad.Finish(t.Context(), b.installed(ns, ad)); err == nil || !strings.Contains(err.Error(), "deleted") {
				t.Errorf("Finish: %v, want that it was deleted", err)
			}
			if err := <-deleted; err != nil {
				t.Error(err)
			}
			if b.Knows(a.Key) || b.store.has(a.Key) {
				t.Errorf("after DEL: known %v, stored %v", b.Knows(a.Key), b.store.has(a.Key))
			}
			if n := descriptors(t, ns); n != 0 {
				t.Errorf("%d descriptors are left", n)
			}
		})
	}
}

// What the plugin has just written is not looked at again, unless something has
// changed since.
func TestFinishWritesWhatHasChanged(t *testing.T) {
	for _, changed := range []bool{false, true} {
		b := newBench(t)
		ns := netnstest.New(t)
		ad, err := b.Begin(pod(ns, "web", "10.0.0.2"), fd(t, ns))
		if err != nil {
			t.Fatal(err)
		}
		done, wrote := b.installed(ns, ad), false
		b.kernel.before = func(uint64, ruleset.RuleSet) error { wrote = true; return nil }
		if changed {
			b.owning()
		}
		b.round(t.Context())
		if err := ad.Finish(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		if wrote != changed {
			t.Errorf("changed %v, written again %v", changed, wrote)
		}
	}
}

// The second ADD of a key wins, in whatever order the two end.
func TestAddReplacesAdd(t *testing.T) {
	for _, name := range []string{"the first ends first", "the first ends last", "the first is aborted last"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			defer b.rounds(t)()
			ns := netnstest.New(t)
			begin := func(addr string) *Adding {
				ad, err := b.Begin(pod(ns, "web", addr), fd(t, ns))
				if err != nil {
					t.Fatal(err)
				}
				return ad
			}
			first, second := begin("10.0.0.2"), begin("10.0.0.3")
			finish := func(ad *Adding, wins bool) {
				if err := ad.Finish(t.Context(), b.installed(ns, ad)); (err == nil) != wins {
					t.Errorf("Finish of the ADD with %s: %v", ad.a.record.Addresses, err)
				}
			}
			if name == "the first ends first" {
				finish(first, false)
			}
			finish(second, true)
			switch name {
			case "the first ends last":
				finish(first, false)
			case "the first is aborted last":
				first.Abort()
			}
			got := b.store.all()
			if len(got) != 1 || got[0].Addresses[0] != netip.MustParseAddr("10.0.0.3") {
				t.Errorf("the store holds %+v, want the second ADD's record", got)
			}
			if !b.Knows(second.a.record.Key) {
				t.Error("the second ADD's attachment is not known")
			}
		})
	}
}

// Rules of a replaced or deleted attachment can't come after its successor's:
// who takes its place waits for the transaction under way.
func TestTransactionUnderWayEndsFirst(t *testing.T) {
	tests := []struct {
		name string
		next func(b *bench, ns *netnstest.NS) error
	}{
		{"ADD of the same key", func(b *bench, ns *netnstest.NS) error {
			ad, err := b.Begin(pod(ns, "web", "10.0.0.9"), fd(t, ns))
			if err == nil {
				ad.Abort()
			}
			return err
		}},
		{"DEL", func(b *bench, ns *netnstest.NS) error { return b.Delete(pod(ns, "web", "10.0.0.2").Key) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			ns := netnstest.New(t)
			a := pod(ns, "web", "10.0.0.2")
			b.add(t, ns, a)
			old := b.attachments[a.Key]
			ended := make(chan struct{})
			next := make(chan error, 1)
			b.kernel.before = func(uint64, ruleset.RuleSet) error {
				b.kernel.before = nil
				go func() {
					err := tt.next(b, ns)
					select {
					case <-ended:
					default:
						err = errors.New("it returned during the transaction")
					}
					next <- err
				}()
				for gone := false; !gone; runtime.Gosched() {
					b.mu.Lock()
					gone = old.gone
					b.mu.Unlock()
				}
				return nil
			}
			b.kernel.after = func(uint64, ruleset.RuleSet) error { close(ended); return nil }
			b.SetNodeEgress(true)
			b.Keeper.attachments[a.Key].look = true
			b.round(t.Context())
			if err := <-next; err != nil {
				t.Error(err)
			}
		})
	}
}

// Where the path does not lead to the namespace from here, a descriptor does, as
// long as the attachment exists.
func TestPathThatLeadsElsewhere(t *testing.T) {
	for name, path := range map[string]string{"nowhere": "/run/netns/none-of-ours", "the node's": "/proc/self/ns/net"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ns := netnstest.New(t)
			a := pod(ns, "web", "10.0.0.2")
			a.Netns = path
			b.add(t, ns, a)
			if n := descriptors(t, ns); n != 1 {
				t.Fatalf("%d descriptors of the namespace are kept, want 1", n)
			}
			front := netnstest.New(t)
			b.add(t, front, pod(front, "fe", "10.0.0.3"))
			b.sweep(t.Context())
			b.round(t.Context())
			if !b.admits(ns, "10.0.0.3") {
				t.Error("its rules were not brought up to date")
			}
			if err := b.Delete(a.Key); err != nil {
				t.Fatal(err)
			}
			if n := descriptors(t, ns); n != 0 {
				t.Errorf("%d descriptors are kept after DEL", n)
			}
		})
	}
}

// A namespace may have the number of one that is gone, whose attachment nobody has
// deleted: that attachment keeps no pod from being adopted.
func TestAdoptWhereANumberComesAgain(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	id, err := NetnsIDOf(fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	gone := attached('a', "gone", "")
	gone.NetnsID, gone.Netns = id, filepath.Join(t.TempDir(), "gone")
	b.Restore([]store.Record{gone})
	if !b.Adopt(store.Record{Attachment: a, NetnsID: id}) {
		t.Error("it is not adopted")
	}
	if b.Knows(gone.Key) || !b.Knows(a.Key) {
		t.Errorf("known are %v, want the adopted one", b.keys())
	}
	if other := attached('b', "other", ""); b.Adopt(store.Record{Attachment: other.Attachment, NetnsID: id}) {
		t.Error("an interface was adopted under a second name")
	}
}

func TestAdoptKeepsWhatIsKnown(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	ad, err := b.Begin(a, fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Abort()
	if b.Adopt(store.Record{Attachment: a}) {
		t.Error("an attachment in the middle of ADD was adopted")
	}
	a.ContainerID = "another"
	if b.Adopt(store.Record{Attachment: a, NetnsID: ad.a.record.NetnsID}) {
		t.Error("an interface was adopted under a second name")
	}
}

// An interface has one container, the last that was added with it; another
// interface of the namespace is its own.
func TestInterfaceChangesItsContainer(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	net1 := pod(ns, "web", "10.1.0.2")
	net1.Interface = "net1"
	for _, a := range []api.Attachment{pod(ns, "db", "10.0.0.2"), net1, pod(ns, "web", "10.0.0.2")} {
		b.add(t, ns, a)
	}
	if got := b.keys(); len(got) != 2 || got[0] != "of-web" || got[1] != "of-web" || len(b.store.all()) != 2 {
		t.Errorf("attachments of %v and %d records, want both of web", got, len(b.store.all()))
	}
	writes := b.kernel.writes
	for range 3 {
		b.sweep(t.Context())
		b.round(t.Context())
	}
	if b.kernel.writes != writes {
		t.Errorf("%d writes though nothing changed", b.kernel.writes-writes)
	}
}

// A round may pass an ADD by while that stores its attachment: there is another.
func TestChangeDuringFinishIsNotMissed(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	ad, err := b.Begin(pod(ns, "web", "10.0.0.2"), fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	b.owning()
	b.round(t.Context())
	b.kernel.after = func(uint64, ruleset.RuleSet) error { // the last rules stand
		b.kernel.after = nil
		front := fe
		front.Addresses = []netip.Addr{netip.MustParseAddr("10.9.0.3")}
		b.Update(everything(shop(front)))
		<-b.kick
		b.round(t.Context())
		return nil
	}
	if err := ad.Finish(t.Context(), b.installed(ns, ad)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.kick: // as Run does
		b.round(t.Context())
	default:
	}
	if !b.admits(ns, "10.9.0.3") {
		t.Error("the pod's rules are those of a World that has been replaced")
	}
}

// An ADD that has not ended is stored: after a kill its namespace is known and gets
// its rules. Abort takes it out again, but not what another ADD has put there.
func TestUnfinishedAddIsStoredUntilItsAbort(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	first, err := b.Begin(a, fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Begin(a, fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-second.durable; err != nil {
		t.Fatal(err)
	}
	first.Abort()
	b.sweep(t.Context())
	b.round(t.Context())
	if !b.store.has(a.Key) {
		t.Error("it is not stored")
	}
	second.Abort()
	if b.Knows(a.Key) || b.store.has(a.Key) {
		t.Error("it is known after its Abort")
	}
}
