package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

func (b *bench) keys() []string {
	var ids []string
	for key := range maps.Keys(b.attachments) {
		ids = append(ids, key.ContainerID)
	}
	return slices.Sorted(slices.Values(ids))
}

// CNI GC speaks for one network.
func TestKeep(t *testing.T) {
	on := func(id byte, network string) store.Record {
		r := attached(id, "pod", string(id))
		r.Network = network
		return r
	}
	b := newBench(t)
	records := []store.Record{on('a', "net"), on('b', "net"), on('c', "other"), on('d', "")}
	if err := b.store.Save(records, nil); err != nil {
		t.Fatal(err)
	}
	b.Restore(records)
	ns := netnstest.New(t)
	ad, err := b.Begin(pod(ns, "web", "10.0.0.2"), fd(t, ns)) // also on net, and not known to the runtime yet
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Abort()
	if err := <-ad.durable; err != nil {
		t.Fatal(err)
	}
	if err := b.Keep("net", []api.Key{records[0].Key, {ContainerID: "x", Interface: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "c", "d", "of-web"}, b.keys()); diff != "" {
		t.Errorf("attachments that are kept (-want +got):\n%s", diff)
	}
	if b.store.has(records[1].Key) || len(b.store.all()) != 4 {
		t.Errorf("the store holds %d records, want all but b's", len(b.store.all()))
	}
}

func TestKeepGoesOnAfterErrors(t *testing.T) {
	b := newBench(t)
	b.Restore([]store.Record{attached('a', "pod", ""), attached('b', "pod", "")})
	b.store.fail = func(string) error { return errInjected }
	err := b.Keep("net", nil)
	if n := strings.Count(err.Error(), "injected"); n != 2 || len(b.keys()) != 0 {
		t.Errorf("%d errors, %v are kept; want 2 and none:\n%v", n, b.keys(), err)
	}
}

// A DEL that could not be made durable is an error, so that it comes again; that
// one succeeds though the attachment is not known any more.
func TestDeleteComesAgain(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	b.store.fail = func(string) error { return errInjected }
	if err := b.Delete(a.Key); !errors.Is(err, errInjected) {
		t.Fatalf("Delete: %v", err)
	}
	b.store.fail = nil
	for _, when := range []string{"again", "once more"} {
		if err := b.Delete(a.Key); err != nil || b.store.has(a.Key) {
			t.Errorf("Delete %s: %v, stored %v", when, err, b.store.has(a.Key))
		}
	}
}

// Whoever stores what rounds have done does not bring back what was deleted
// between its doing and its storing.
func TestRoundDoesNotStoreTheDeleted(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	b.SetNodeEgress(true)
	b.attachments[a.Key].look = true
	b.kernel.touch(inode(ns.FD())) // so that there is something to store
	deleted := make(chan error)
	b.store.fail = func(op string) error {
		if op == "put" { // the round has decided what to store
			b.store.fail = nil
			go func() { deleted <- b.Delete(a.Key) }()
			b.gone("web")
		}
		return nil
	}
	b.round(t.Context())
	if err := b.saveAll(); err != nil {
		t.Error(err)
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if b.store.has(a.Key) {
		t.Error("the record is in the store after DEL has returned")
	}
}

// Who comes while the store is being written shares the next write with all who do.
func TestManyShareOneWrite(t *testing.T) {
	b := newBench(t)
	const many = 20
	begun, resume := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(begun); <-resume })
	b.store.fail = func(string) error { once(); return nil }
	var g errgroup.Group
	put := func(i int) {
		record := attached('a', fmt.Sprint("p", i), "")
		record.ContainerID = fmt.Sprint(i)
		b.mu.Lock()
		b.attach(&attachment{record: record})
		b.mu.Unlock()
		g.Go(func() error { return b.persist(record.Key) })
	}
	put(0)
	<-begun
	for i := range many {
		put(1 + i)
	}
	netnstest.Eventually(t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.batch == nil || len(b.batch.keys) < many {
			return errors.New("not all have joined the next write")
		}
		return nil
	})
	close(resume)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if b.store.puts != 2 || len(b.store.all()) != 1+many {
		t.Errorf("%d records in %d writes, want %d in 2", len(b.store.all()), b.store.puts, 1+many)
	}
}

func TestCheckKey(t *testing.T) {
	tests := []struct {
		name string
		key  api.Key
		ok   bool
	}{
		{"a container's", api.Key{ContainerID: "0123abcd", Interface: "eth0"}, true},
		{"empty", api.Key{}, false},
		{"without an interface", api.Key{ContainerID: "a"}, false},
		{"with a path", api.Key{ContainerID: "../../etc", Interface: "eth0"}, false},
		{"with a NUL", api.Key{ContainerID: "a\x00b", Interface: "eth0"}, false},
		{"with 256 bytes", api.Key{ContainerID: strings.Repeat("a", 256), Interface: "eth0"}, false},
		{"with an interface of 16 bytes", api.Key{ContainerID: "a", Interface: "eth0123456789012"}, false},
		{"with a colon in the interface", api.Key{ContainerID: "a", Interface: "eth0:1"}, false},
	}
	for _, tt := range tests {
		if err := CheckKey(tt.key); (err == nil) != tt.ok {
			t.Errorf("key %s: %v", tt.name, err)
		}
	}
}
