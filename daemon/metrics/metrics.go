package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/server"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
)

// Sources are what a scrape asks.
type Sources struct {
	Status  func() api.Status
	Behind  func() time.Duration // age of the oldest change that is not in the kernel
	Dropped func(context.Context) []reconcile.Dropped
	// Events counts verdict events; nil where there are none.
	Events func() Events
	// Pods is how many pods' drops are told apart.
	Pods int
}

// Events counts verdict events since the daemon started.
type Events struct {
	Seen       map[string]uint64 // taken from the kernel, by verdict
	Suppressed uint64            // held back by a pod's limit: counted, not shown
	Lost       uint64            // sent by the kernel and not received
	Skipped    uint64            // not shown to a monitor that was too slow
	Malformed  uint64            // what came could not be read
}

// Metrics are podwalld's. It is a reconcile.Observer and a server.Observer; its
// methods may be called from any goroutine.
type Metrics struct {
	registry *prometheus.Registry
	drops    *drops

	add          *prometheus.HistogramVec
	phases       map[string]prometheus.Observer
	change       prometheus.Observer
	transactions prometheus.Observer
	retries      prometheus.Counter
	errors       prometheus.Counter
	repairs      prometheus.Counter
	nftables     prometheus.Counter
	devices      prometheus.Counter
	lost         prometheus.Counter
}

var (
	_ reconcile.Observer = (*Metrics)(nil)
	_ server.Observer    = (*Metrics)(nil)
)

// Values of the label result.
const (
	resultOK    = "ok"
	resultError = "error"
)

// seconds are the bounds of all histograms: from what one transaction takes to
// what a runtime has patience for.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns the metrics of a daemon of the given version.
func New(version string, s Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), drops: newDrops(s.Dropped, s.Pods)}
	m.add = m.histogram("add_duration_seconds", "Time from the request for an ADD to its answer, by result.", "result")
	m.add.WithLabelValues(resultOK)
	m.add.WithLabelValues(resultError)
	phases := m.histogram("add_phase_duration_seconds",
		"Time that each phase of an ADD took: "+
			"decode the request, learn (the pod's labels, from the API server if need be), begin (compile its rules), apply (in the plugin), others (tell the other pods' rules), update (its own), persist.",
		"phase")
	m.phases = map[string]prometheus.Observer{}
	for _, p := range []string{server.PhaseDecode, server.PhaseLearn, server.PhaseBegin, server.PhaseApply,
		reconcile.PhaseOthers, reconcile.PhaseUpdate, reconcile.PhasePersist} {
		m.phases[p] = phases.WithLabelValues(p)
	}
	m.change = m.histogram("change_to_kernel_duration_seconds",
		"Time from a change of policy, or of pods, to the moment when every pod's rules have it.").WithLabelValues()
	m.transactions = m.histogram("transaction_duration_seconds",
		"Time that each nftables transaction of the daemon took, with what it had to read before.").WithLabelValues()
	m.errors = m.counter("transaction_errors_total", "Attempts to give a pod its rules that failed; the rules before stand.")
	m.retries = m.counter("transaction_retries_total", "Attempts to give a pod its rules after one that had failed.")
	m.repairs = m.counter("repairs_total", "Times that somebody else had changed a pod's rules and they were put right.")
	notices := m.counters("notices_total",
		"Changes in pods' namespaces that the daemon heard of and looked into, by what changed. Now and then one is its own.", "subject")
	m.nftables, m.devices = notices.WithLabelValues("nftables"), notices.WithLabelValues("device")
	m.lost = m.counter("notices_lost_total", "Times that the kernel had to leave out notices of changes; every pod is looked at then.")
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.drops, state{s})
	build := m.gauge("build_info", "Version of the daemon and of Go, as labels; the value is 1.", "version", "goversion")
	build.WithLabelValues(version, runtime.Version()).Set(1)
	return m
}

const namespace = "podwall"

func (m *Metrics) histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: seconds}, labels)
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	return m.counters(name, help).WithLabelValues()
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

// Handler answers scrapes. Errors go to log.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	h := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // one bad value hides no other
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.drops.refresh(r.Context())
		h.ServeHTTP(w, r)
	})
}

// Phase is server.Observer's.
func (m *Metrics) Phase(phase string, took time.Duration) {
	if o, ok := m.phases[phase]; ok {
		o.Observe(took.Seconds())
	}
}

// Answered is server.Observer's.
func (m *Metrics) Answered(verb api.Verb, took time.Duration, err error) {
	if verb != api.VerbAdd {
		return
	}
	result := resultOK
	if err != nil {
		result = resultError
	}
	m.add.WithLabelValues(result).Observe(took.Seconds())
}

// Attempted is reconcile.Observer's.
func (m *Metrics) Attempted(a reconcile.Attempt) {
	if a.Again {
		m.retries.Inc()
	}
	if a.Foreign {
		m.repairs.Inc()
	}
	switch {
	case a.Err != nil:
		m.errors.Inc()
	case a.Wrote:
		m.transactions.Observe(a.Took.Seconds())
	}
}

// Reached is reconcile.Observer's.
func (m *Metrics) Reached(behind time.Duration) { m.change.Observe(behind.Seconds()) }

// Heard is reconcile.Observer's.
func (m *Metrics) Heard(e tamper.Event) {
	switch {
	case e.Lost: // counted where it is heard, once for all attachments
	case e.Generation != 0:
		m.nftables.Inc()
	default:
		m.devices.Inc()
	}
}

// Notice counts e if it says that notices were lost. Heard does not: an
// attachment hears of it, and so does every other.
func (m *Metrics) Notice(e tamper.Event) {
	if e.Lost {
		m.lost.Inc()
	}
}
