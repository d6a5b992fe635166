// Package promcheck checks what install/monitoring gives to Prometheus and
// Grafana with Prometheus' own parsers.
//
// It is a module of its own: the product does not depend on Prometheus' server.
//
// # Contract
//
// An expression of the dashboard or of an alert that does not parse, or that asks
// for a metric or a label that docs/metrics.md does not name, fails the test.
package promcheck
