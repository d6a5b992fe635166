package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/version"
)

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
	mux.Handle("/metrics", promhttp.HandlerFor(d.registry(), promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
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

func (d *daemon) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "podwall", Name: name, Help: help, ConstLabels: labels}, value))
	}
	gauge("build_info", "Version of the daemon, as a label; the value is 1.", prometheus.Labels{"version": version.Version},
		func() float64 { return 1 })
	for _, s := range []api.State{api.StateEnforced, api.StatePending, api.StateError, api.StateDrifted, api.StateUnprotected} {
		gauge("attachments", "Attachments on this node by the state of their firewall.", prometheus.Labels{"state": string(s)},
			func() float64 { return float64(d.keeper.Counts()[s]) })
	}
	gauge("store_size_bytes", "Size of the database file.", nil, func() float64 { return float64(d.store.Status().Bytes) })
	gauge("source_problems", "Things in the source that could not be honoured.", nil, func() float64 {
		_, _, problems := d.keeper.Source()
		return float64(len(problems))
	})
	return r
}
