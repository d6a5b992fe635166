package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A memory is a Store.
type memory struct {
	mu      sync.Mutex
	records map[api.Key]store.Record
}

func (m *memory) Save(put []store.Record, gone []api.Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range put {
		m.records[r.Key] = r
	}
	for _, key := range gone {
		delete(m.records, key)
	}
	return nil
}

func (m *memory) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key := range maps.Keys(m.records) {
		keys = append(keys, key.String())
	}
	return slices.Sorted(slices.Values(keys))
}

// paper is a kernel that takes everything.
func paper() reconcile.Kernel {
	known := func(rs ruleset.RuleSet) nft.Known { return nft.Known{Rules: rs, Epoch: 1, Generation: 1} }
	return reconcile.Kernel{
		Apply: func(_ int, _ string, rs ruleset.RuleSet, _ *nft.Known) (nft.Known, bool, error) {
			return known(rs), true, nil
		},
		Check:      func(int, string, nft.Known) ([]string, uint32, error) { return nil, 1, nil },
		Counters:   func(int) (map[string]nft.Count, error) { return nil, nil },
		Generation: func(int) (uint32, error) { return 1, nil },
	}
}

// A host is a server in front of a Keeper.
type host struct {
	t      *testing.T
	keeper *reconcile.Keeper
	store  *memory
	client api.Client
	log    *log
	stop   func() time.Duration // how long stopping took
}

// A log is written by the server and read by tests.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a Server that has a World in which shop/web lets in nobody but
// shop/fe, after adjusting it, and waits until ADD works.
func serve(t *testing.T, kernel reconcile.Kernel, limits Limits, adjust ...func(*Server)) *host {
	t.Helper()
	h := start(t, kernel, limits, adjust...)
	h.synced()
	if err := h.keeper.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// synced is a source that speaks.
func (h *host) synced() {
	h.keeper.Update(source.Update{Whole: true, Change: policy.Change{Set: shop()}})
}

// start starts a Server whose source has said nothing yet, after adjusting it.
func start(t *testing.T, kernel reconcile.Kernel, limits Limits, adjust ...func(*Server)) *host {
	t.Helper()
	h := &host{t: t, keeper: reconcile.New(), store: &memory{records: map[api.Key]store.Record{}}, log: &log{}}
	h.keeper.SetProtection(reconcile.Protection{Tamper: daemonconf.TamperOff}) // the tests change tables
	logger := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.keeper.Store, h.keeper.Kernel, h.keeper.Log, h.keeper.Node = h.store, kernel, logger, "here"
	h.keeper.NodeAddresses = func() ([]netip.Addr, error) { return nil, nil }
	h.client.Socket = filepath.Join(t.TempDir(), "podwalld.sock")
	l, err := Listen(h.client.Socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Limits: limits, Log: logger, Handler: Handler{Keeper: h.keeper, Ready: h.keeper.Synced,
		Status: func() api.Status { return api.Status{Node: "here"} }}}
	for _, a := range adjust {
		a(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.keeper.Run(ctx) })
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	stop := sync.OnceValue(func() time.Duration {
		start := time.Now()
		cancel()
		wg.Wait()
		return time.Since(start)
	})
	h.stop = stop
	t.Cleanup(func() { stop() })
	return h
}

func shop() policy.Snapshot {
	app := func(name string) policy.PodSet {
		return policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{name}}}}}
	}
	named := func(name string) policy.Pod {
		return policy.Pod{Namespace: "shop", Name: name, Labels: policy.Labels{"app": name}}
	}
	return policy.Snapshot{
		Pods: []policy.Pod{named("web"), named("fe")},
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

// ready asks the server whether it serves.
func (h *host) ready() error {
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	return h.client.Call(ctx, api.VerbReady, nil, nil, nil)
}

// attachment is shop/name in ns.
func attachment(ns *netnstest.NS, name string, addrs ...netip.Addr) api.Attachment {
	return api.Attachment{Key: api.Key{ContainerID: "of-" + name, Interface: "eth0"}, Netns: ns.Path(), Network: "net",
		Namespace: "shop", Name: name, Addresses: addrs}
}

// add does what the plugin does for an ADD, with apply for its transaction.
func (h *host) add(ctx context.Context, ns *netnstest.NS, a api.Attachment, kernel reconcile.Kernel) error {
	f, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	adding, err := h.client.Add(ctx, a, f)
	if err != nil {
		return fmt.Errorf("add: %w", err)
	}
	defer adding.Close()
	now, _, err := kernel.Apply(ns.FD(), a.Interface, adding.Rules, nil)
	if err != nil {
		return err
	}
	return adding.Applied(ctx, api.Applied{Epoch: now.Epoch, Generation: now.Generation, Others: now.Others})
}
