package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/install/confdir"
	"github.com/podwall/podwall/internal/api"
)

// A verdict is what becomes of the node's taint. The zero verdict keeps pods away.
type verdict uint8

const (
	shut   verdict = iota // new pods would have no firewall, and nothing here changes that
	asItIs                // not ready yet, or not now: pods that come nevertheless are refused, or adopted
	open                  // new pods get their firewall
)

// A gate keeps the scheduler from sending pods to a node where they would have no
// firewall, by a taint that the node was made with.
type gate struct {
	look func(context.Context) verdict
	// taint sets the taint or takes it away, and reports whether it was otherwise.
	taint func(ctx context.Context, want bool) (changed bool, err error)
	log   *slog.Logger
}

const (
	gateEvery  = time.Second      // looks, while the taint is not as it should be
	gateRest   = 10 * time.Second // looks, once it is
	gateAgain  = 5 * time.Minute  // makes sure: a node that registers again is tainted again
	gateSlower = 30 * time.Second // at most, after errors
)

// run works until ctx ends.
func (g *gate) run(ctx context.Context) error {
	done, when := asItIs, time.Time{} // what the taint is, and since when that is known
	wait, said := gateEvery, ""
	for ; ctx.Err() == nil; pause(ctx, wait) {
		v := g.look(ctx)
		if v == asItIs || (v == done && time.Since(when) < gateAgain) {
			wait = gateEvery
			if done != asItIs {
				wait = gateRest
			}
			continue
		}
		changed, err := g.taint(ctx, v == shut)
		if err != nil {
			wait = min(2*wait, gateSlower)
			if err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				g.log.Error("change the node's taint", "error", err)
			}
			continue
		}
		done, when, wait, said = v, time.Now(), gateRest, ""
		switch {
		case changed && v == shut:
			g.log.Error("new pods would have no firewall: the node is tainted, so that none come")
		case changed:
			g.log.Info("new pods get their firewall: the node's taint is taken away")
		}
	}
	return nil
}

// protects says whether new pods get their firewall.
func (n *node) protects(ctx context.Context) verdict {
	dir := n.dir
	dir.CNIVersion = "" // of no concern here
	files, err := dir.Look()
	if err != nil {
		return asItIs
	}
	stuck := func(f confdir.File) bool { return f.Selected && f.Stuck() }
	bare := func(f confdir.File) bool { return f.State == confdir.Unprotected }
	switch {
	case (n.contested.Load() || slices.ContainsFunc(files, stuck)) && n.policy == netconf.Closed.String():
		return shut
	case slices.ContainsFunc(files, bare), (plan{files: files}).waiting(), !executable(n.binaries()[0].Path):
		return asItIs
	}
	ctx, cancel := context.WithTimeout(ctx, gateEvery)
	defer cancel()
	if err := (api.Client{Socket: n.entry.Socket}).Call(ctx, api.VerbReady, nil, nil, nil); err != nil {
		return asItIs
	}
	return open
}

// setTaint gives this node its taint, or takes it away.
func (n *node) setTaint(ctx context.Context, want bool) (bool, error) {
	return n.api().Taint(ctx, n.cluster.node, n.cluster.taint, want)
}
