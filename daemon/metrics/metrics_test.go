package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/server"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
)

// newMetrics returns those of a daemon that has one pod, which dropped 7 packets.
func newMetrics() *Metrics {
	n, _, _ := newNode(0, "web")
	n.packets["web"] = 7
	return New("v1", Sources{
		Status: func() api.Status {
			return api.Status{Ready: true, Attachments: map[api.State]int{api.StateEnforced: 1},
				Source: api.SourceStatus{Synced: true, SyncedAt: time.Unix(1e9, 5e8), Lag: 7 * time.Second, Objects: map[string]int{"Pod": 3}},
				Store:  api.StoreStatus{Bytes: 4096}, Problems: []api.Problem{{}}}
		},
		Behind: func() time.Duration { return 2 * time.Second },
		Dropped: func(ctx context.Context) []reconcile.Dropped {
			all := n.read(ctx)
			all[0].Drops = append(all[0].Drops, reconcile.Drop{Direction: "egress", Reason: reconcile.ReasonAudit, Count: nft.Count{Packets: 2}})
			return all
		},
		Events: func() Events {
			return Events{Seen: map[string]uint64{"Drop": 5}, Suppressed: 2, Lost: 1, Skipped: 3, Malformed: 4}
		},
	})
}

func (m *Metrics) scrape(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestScrape(t *testing.T) {
	m := newMetrics()
	failure := errors.New("injected")
	m.Phase(server.PhaseApply, 3*time.Millisecond)
	m.Phase("unheard of", time.Second)
	m.Answered(api.VerbAdd, 4*time.Millisecond, nil)
	m.Answered(api.VerbAdd, 4*time.Millisecond, failure)
	m.Answered(api.VerbDel, time.Hour, nil)
	m.Reached(20 * time.Millisecond)
	m.Attempted(reconcile.Attempt{Err: failure})
	m.Attempted(reconcile.Attempt{Wrote: true, Again: true, Took: time.Millisecond})
	m.Attempted(reconcile.Attempt{Wrote: true, Foreign: true, Took: time.Millisecond})
	m.Attempted(reconcile.Attempt{})
	m.Heard(tamper.Event{Generation: 3})
	m.Heard(tamper.Event{})
	m.Heard(tamper.Event{Lost: true})
	m.Heard(tamper.Event{Lost: true})
	m.Notice(tamper.Event{Lost: true})
	m.Notice(tamper.Event{})
	got := m.scrape(t)
	for _, want := range []string{
		`podwall_build_info{goversion="go`,
		`podwall_ready 1`,
		`podwall_attachments{state="Enforced"} 1`,
		`podwall_attachments{state="Error"} 0`,
		`podwall_add_phase_duration_seconds_bucket{phase="apply",le="0.005"} 1`,
		`podwall_add_phase_duration_seconds_count{phase="persist"} 0`,
		`podwall_add_duration_seconds_count{result="ok"} 1`,
		`podwall_add_duration_seconds_count{result="error"} 1`,
		`podwall_change_to_kernel_duration_seconds_bucket{le="0.025"} 1`,
		`podwall_pending_change_age_seconds 2`,
		`podwall_transaction_duration_seconds_count 2`,
		`podwall_transaction_errors_total 1`,
		`podwall_transaction_retries_total 1`,
		`podwall_repairs_total 1`,
		`podwall_notices_total{subject="nftables"} 1`,
		`podwall_notices_total{subject="device"} 1`,
		`podwall_notices_lost_total 1`,
		`podwall_dropped_packets_total{direction="ingress",namespace="",pod="others",reason="policy"} 7`,
		`podwall_dropped_bytes_total{direction="ingress",namespace="",pod="others",reason="policy"} 420`,
		`podwall_drops_unread_attachments 0`,
		`podwall_events_total{verdict="Drop"} 5`,
		`podwall_events_total{verdict="Accept"} 0`,
		`podwall_events_skipped_total 3`,
		`podwall_events_malformed_total 4`,
		`podwall_source_lag_seconds 7`,
		`podwall_audited_packets_total{direction="egress",namespace="",pod="others"} 2`,
		`podwall_events_suppressed_total 2`,
		`podwall_events_lost_total 1`,
		`podwall_store_size_bytes 4096`,
		`podwall_source_objects{kind="Pod"} 3`,
		`podwall_source_last_update_timestamp_seconds 1.0000000005e+09`,
		`podwall_problems 1`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("the scrape lacks %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", got)
	}
}

func TestMetricsAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(newMetrics().scrape(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A daemon that can't be asked about events has none.
func TestNoEvents(t *testing.T) {
	m := New("v1", Sources{
		Status: func() api.Status { return api.Status{} }, Behind: func() time.Duration { return 0 },
		Dropped: func(context.Context) []reconcile.Dropped { return nil },
	})
	for _, want := range []string{"podwall_events_lost_total 0", "podwall_ready 0", "podwall_source_last_update_timestamp_seconds 0"} {
		if !strings.Contains(m.scrape(t), want) {
			t.Errorf("the scrape lacks %s", want)
		}
	}
}

// What an ADD pays: six phases and an answer.
func BenchmarkObserve(b *testing.B) {
	m := newMetrics()
	for b.Loop() {
		for _, p := range []string{server.PhaseDecode, server.PhaseBegin, server.PhaseApply, reconcile.PhaseOthers, reconcile.PhaseUpdate, reconcile.PhasePersist} {
			m.Phase(p, time.Millisecond)
		}
		m.Answered(api.VerbAdd, time.Millisecond, nil)
	}
}
