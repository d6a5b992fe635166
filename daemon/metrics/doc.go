// Package metrics counts and times what podwalld does, for Prometheus.
//
//	server ──phases of ADD──▶ ┌─────────┐
//	reconcile ──attempts────▶ │ Metrics │ ◀── a scrape, which asks Sources for the rest
//	kernel ◀──drops, cached── └─────────┘
//
// # Contract
//
// What is observed costs a few atomic additions: nothing on the path of an ADD
// grows with the number of pods. What is proportional to them, the counters of
// drops, is read when somebody scrapes, in a bounded time and not more often than
// every few seconds.
//
// The number of series is bounded, whatever pods do: drops are told apart for a
// limited number of pods, and those of all others are in one series of each kind.
// A counter never goes down while the daemon runs, also when a pod comes to be
// told apart or ceases to be.
package metrics
