package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/podwall/podwall/daemon/metrics"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/version"
)

// newMetrics returns the metrics of this daemon, whose Keeper is made.
func (d *daemon) newMetrics() *metrics.Metrics {
	return metrics.New(version.Version, metrics.Sources{
		Status: d.status, Behind: d.keeper.Behind, Dropped: d.keeper.Dropped, Pods: d.cfg.MetricsPods,
		Events: d.eventCounts,
	})
}

// eventCounts is what the Hub has counted.
func (d *daemon) eventCounts() metrics.Events {
	s := d.events.Stats()
	e := metrics.Events{Seen: map[string]uint64{}, Suppressed: s.Hidden, Lost: s.Lost, Skipped: s.Skipped, Malformed: s.Malformed}
	for fate, n := range s.Events {
		e.Seen[fate.String()] = n
	}
	return e
}

// heard passes a notice on to those who care.
func (d *daemon) heard(e tamper.Event) {
	d.metrics.Notice(e)
	d.keeper.Heard(e)
}

// listenMetrics opens the configured address. An empty one is no listener.
func listenMetrics(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metricsAddress: %w", err)
	}
	return l, nil
}

// serveMetrics serves Prometheus metrics at l until ctx ends, and nothing if
// there is no l.
func (d *daemon) serveMetrics(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", d.metrics.Handler(d.log))
	s := &http.Server{
		Handler:     mux,
		ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
