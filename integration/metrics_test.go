package integration

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/podwall/podwall/integration/lab"
)

// closed isolates shop/api and lets nobody in; nor into shop/old, were that not
// audited.
const closed = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: closed}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [api, old]}]}
  policyTypes: [Ingress]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: api, labels: {app: api}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: old, labels: {app: old}, annotations: {podwall.io/audit: "true"}}
`

// scrape gets the metrics of the node's podwalld, as text.
func scrape(ctx context.Context, n *lab.Node) (string, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.Netns.DialFrom(ctx, net.Dialer{}, network, addr)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9469/metrics", nil)
	if err != nil {
		return "", err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("scrape: %s: %s", res.Status, b)
	}
	return string(b), err
}

func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	fs, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// What happens on a node is in a scrape of its podwalld, which is at a loopback
// address by default; docs/metrics.md names each metric there is, and the
// dashboard and the alerts name no other.
func TestMetrics(t *testing.T) {
	n := newNode(t)
	must(t, n.WriteManifest("closed.yaml", closed))
	must(t, n.Start(t.Context(), "--pod-annotations", "audit"))
	web, api, old := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "api"), addPod(t, n, "shop", "old")
	expect(t, tcp(web, api, false), tcp(web, old, true))
	var text string
	var got map[string]*dto.MetricFamily
	eventually(t, func() error { // the counters of drops may be seconds old
		var err error
		if text, err = scrape(t.Context(), n); err != nil {
			return err
		}
		got = families(t, text)
		if v := value(got["podwall_dropped_packets_total"], "namespace=shop pod=api direction=ingress reason=policy"); v < 1 {
			return fmt.Errorf("%v packets of shop/api dropped, want some", v)
		}
		if v := value(got["podwall_audited_packets_total"], "namespace=shop pod=old direction=ingress"); v < 1 {
			return fmt.Errorf("%v packets of shop/old audited, want some", v)
		}
		return nil
	})
	for name, want := range map[string]struct {
		labels string
		least  float64
	}{
		"podwall_attachments":                          {"state=Enforced", 3},
		"podwall_ready":                                {"", 1},
		"podwall_add_duration_seconds":                 {"result=ok", 2},
		"podwall_add_phase_duration_seconds":           {"phase=apply", 2},
		"podwall_change_to_kernel_duration_seconds":    {"", 1},
		"podwall_source_objects":                       {"kind=NetworkPolicy", 1},
		"podwall_store_size_bytes":                     {"", 1},
		"podwall_source_last_update_timestamp_seconds": {"", float64(time.Now().Add(-time.Hour).Unix())},
	} {
		if v := value(got[name], want.labels); v < want.least {
			t.Errorf("%s{%s} is %v, want at least %v", name, want.labels, v, want.least)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	documented(t, got)
	for _, file := range []string{"../install/monitoring/dashboard.json", "../install/monitoring/alerts.yaml"} {
		scraped(t, file, got)
	}
}

// value is that of the metric which has the labels, or how often a histogram was
// told something; 0 if there is none.
func value(f *dto.MetricFamily, labels string) float64 {
	for _, m := range f.GetMetric() {
		has := map[string]bool{}
		for _, l := range m.Label {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		if slices.ContainsFunc(strings.Fields(labels), func(l string) bool { return !has[l] }) {
			continue
		}
		return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return 0
}

// documented compares podwall's own metrics with the table in docs/metrics.md.
func documented(t *testing.T, got map[string]*dto.MetricFamily) {
	t.Helper()
	var table strings.Builder
	for _, name := range slices.Sorted(maps.Keys(got)) {
		f := got[name]
		if !strings.HasPrefix(name, "podwall_") {
			continue
		}
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "|---|---|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/metrics.md lacks the table\n%s", &table)
	}
}

var metricName = regexp.MustCompile(`\b(podwall|process|go)_[a-z_]+`)

// scraped says that a file names only metrics that were scraped.
func scraped(t *testing.T, file string, got map[string]*dto.MetricFamily) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names := metricName.FindAllString(string(b), -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric", file)
	}
	for _, name := range names {
		family := name
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if base := strings.TrimSuffix(name, suffix); got[base].GetType() == dto.MetricType_HISTOGRAM {
				family = base
			}
		}
		if got[family] == nil {
			t.Errorf("%s: podwalld has no metric %s", file, name)
		}
	}
}
