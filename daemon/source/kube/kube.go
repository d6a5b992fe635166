// Package kube reads policy from a Kubernetes API server.
//
//	API server ──watch──▶ link ──▶ Reflector ──item──▶ mirror ─┐
//	                                  (one of each for a kind)  ├─▶ ledger ──Update──▶ publish
//	              ──GET───▶ Learn: a pod that ADD is waiting for┘     │
//	                                                                  ▼
//	                                                    Files: the last known world
//
// Objects are turned into package policy's types as they are decoded, and but for a
// few only a checksum of each stays here: whoever is published to has the rest.
//
// # Contract
//
// The first Update that is not Unknown completes the world: it comes when every kind
// has been read or, if the API server is away, from what an earlier run stored. A
// large world comes in parts before it, so that it is never here as a whole.
// After it come differences. A watch that broke or expired, a list that is read
// again and an API server that was started again lead to differences too, never
// to a moment with less than what was known; while publish blocks, changes
// gather and the last state of each object counts. While the API server is away
// what was known stays, and so does what was known of a kind that may not be read.
//
// A NetworkPolicy that is withdrawn while its namespace is terminating stays until
// the namespace is gone: its pods may still be running. An API server that turns
// out to be another cluster's counts for nothing until the daemon is started again.
//
// Policies and namespaces are stored before they are published, everything else
// within seconds and in batches.
package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/podwall/podwall/daemon/source"
)

// Files keeps contents by name, durably.
type Files interface {
	// EachFile calls visit for each name that begins with prefix, until it returns
	// an error, which EachFile returns then. Visit may call SaveFiles.
	EachFile(prefix string, visit func(name string, content []byte) error) error
	// SaveFiles stores the contents in one transaction. A nil content deletes.
	SaveFiles(contents map[string][]byte) error
}

// A Source is the API server of a cluster. Its exported fields are set before the
// first call and not changed afterwards; its methods may be called from any
// goroutine.
type Source struct {
	// Kubeconfig is the path of a kubeconfig. Empty means the configuration of the
	// pod that this process runs in.
	Kubeconfig string
	Node       string // this node's name in the cluster
	Files      Files  // nil keeps nothing over a restart
	Log        *slog.Logger

	once      sync.Once
	dial      *dialer
	ledger    *ledger
	links     []*link
	asking    singleflight.Group
	cluster   cluster
	announcer announcer
}

// start makes what the methods need, once.
func (s *Source) start() {
	s.once.Do(func() {
		s.dial = &dialer{kubeconfig: s.Kubeconfig}
		s.ledger = newLedger(s.Files, s.Log)
		s.ledger.terminating, s.ledger.faults = s.terminating, s.faults
		for _, k := range kinds(s.Node) {
			l := &link{kind: k, dial: s.dial, mirror: s.ledger.mirror(k), same: s.same, again: s.cluster.again, changed: s.ledger.wake}
			s.links = append(s.links, l)
		}
	})
}

// Describe returns "kubernetes" and the address of the API server.
func (s *Source) Describe() (kind, location string) {
	s.start()
	return "kubernetes", s.dial.address()
}

// Run is source.Source's. It does not fail: an API server that can't be reached,
// and a kubeconfig that can't be read, are Problems and are tried again.
func (s *Source) Run(ctx context.Context, publish func(source.Update)) error {
	s.start()
	defer s.dial.close()
	s.ledger.restore()
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{s.Log.Handler()}))
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range s.links {
		g.Go(func() error { return l.run(ctx) })
	}
	g.Go(func() error { return s.ledger.run(ctx, publish) })
	g.Go(func() error { return s.ledger.keep(ctx) })
	return g.Wait()
}

// A quiet Handler takes what the Kubernetes libraries say for details: what is
// wrong with the connection is a Problem, and logged as one.
type quiet struct{ slog.Handler }

// Enabled is slog.Handler's.
func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle logs r for those who look for details.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil // logr asks for errors without asking first
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs is slog.Handler's.
func (q quiet) WithAttrs(as []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(as)} }

// WithGroup is slog.Handler's.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// A Status says how fresh the source is.
type Status struct {
	Heard time.Time     // when the API server last said anything; zero before it did
	Lag   time.Duration // for how long the kind that fares worst has not been watched, or news have waited to be published
	Known time.Time     // when what is published was stored, if it is from before this run
}

// Status may be called at any time.
func (s *Source) Status() Status {
	s.start()
	now := time.Now()
	st := Status{Lag: s.ledger.waiting(now), Known: s.ledger.from()}
	for _, l := range s.links {
		heard, down := l.freshness(now)
		st.Lag = max(st.Lag, down)
		if heard.After(st.Heard) {
			st.Heard = heard
		}
	}
	return st
}
