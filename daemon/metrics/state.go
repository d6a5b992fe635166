package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A reading is a metric that is asked for at each scrape.
type reading struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newReading(kind prometheus.ValueType, name, help string, labels ...string) reading {
	return reading{prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), kind}
}

// of is the reading's value for these labels.
func (r reading) of(value float64, labels ...string) prometheus.Metric {
	m, err := prometheus.NewConstMetric(r.desc, r.kind, value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(r.desc, err)
	}
	return m
}

var (
	ready       = newReading(prometheus.GaugeValue, "ready", "1 while the daemon can serve ADD, else 0.")
	attachments = newReading(prometheus.GaugeValue, "attachments", "Attachments on this node by the state of their firewall.", "state")
	problems    = newReading(prometheus.GaugeValue, "problems", "Things in the source and on the node that can't be honoured, as policyctl status lists them.")
	pendingAge  = newReading(prometheus.GaugeValue, "pending_change_age_seconds", "Age of the oldest change that is not in every pod's rules yet; 0 if there is none.")
	storeSize   = newReading(prometheus.GaugeValue, "store_size_bytes", "Size of the database file.")
	synced      = newReading(prometheus.GaugeValue, "source_last_update_timestamp_seconds", "When the source said something new; 0 before it has spoken.")
	objects     = newReading(prometheus.GaugeValue, "source_objects", "Objects that the source has, by kind.", "kind")
	seen        = newReading(prometheus.CounterValue, "events_total", "Verdict events taken from the kernel, by what became of the packet.", "verdict")
	suppressed  = newReading(prometheus.CounterValue, "events_suppressed_total", "Verdict events that a pod's limit held back; their packets are in the counters of drops.")
	malformed   = newReading(prometheus.CounterValue, "events_malformed_total", "Messages of the kernel's about packets that could not be read.")
	skipped     = newReading(prometheus.CounterValue, "events_skipped_total", "Verdict events not shown to a policyctl monitor that was too slow.")
	lag         = newReading(prometheus.GaugeValue, "source_lag_seconds", "For how long what the source would say has not come through; 0 if it comes through.")
	eventsLost  = newReading(prometheus.CounterValue, "events_lost_total", "Verdict events that the kernel sent and the daemon did not receive.")
)

// States, in the order of api.
var states = []api.State{api.StateEnforced, api.StatePending, api.StateError, api.StateDrifted, api.StateUnprotected}

// The verdicts of events, as api has them.
var verdicts = []string{ruleset.Dropped.String(), ruleset.Accepted.String(), ruleset.Audited.String()}

// A state is the Collector of what is asked at each scrape.
type state struct{ Sources }

// Describe is prometheus.Collector's.
func (state) Describe(to chan<- *prometheus.Desc) {
	for _, r := range []reading{ready, attachments, problems, pendingAge, storeSize, synced, lag, objects, seen, suppressed, eventsLost, skipped, malformed} {
		to <- r.desc
	}
}

// Collect is prometheus.Collector's.
func (s state) Collect(to chan<- prometheus.Metric) {
	st := s.Status()
	to <- ready.of(number(st.Ready))
	for _, name := range states {
		to <- attachments.of(float64(st.Attachments[name]), string(name))
	}
	to <- problems.of(float64(len(st.Problems)))
	to <- pendingAge.of(s.Behind().Seconds())
	to <- storeSize.of(float64(st.Store.Bytes))
	last := 0.0
	if st.Source.Synced {
		last = float64(st.Source.SyncedAt.UnixMilli()) / 1000
	}
	to <- synced.of(last)
	to <- lag.of(st.Source.Lag.Seconds())
	for kind, n := range st.Source.Objects {
		to <- objects.of(float64(n), kind)
	}
	var e Events
	if s.Events != nil {
		e = s.Events()
	}
	for _, v := range verdicts {
		to <- seen.of(float64(e.Seen[v]), v)
	}
	to <- suppressed.of(float64(e.Suppressed))
	to <- eventsLost.of(float64(e.Lost))
	to <- skipped.of(float64(e.Skipped))
	to <- malformed.of(float64(e.Malformed))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
