package promcheck

import (
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	document  = "../../docs/metrics.md"
	alerts    = "../../install/monitoring/alerts.yaml"
	dashboard = "../../install/monitoring/dashboard.json"
)

// Labels that Prometheus itself gives to what it scrapes.
var scraped = []string{"__name__", "instance", "job"}

var row = regexp.MustCompile("(?m)^\\| `(podwall_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\|")

// documented returns the labels of each metric that there is.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{"up": scraped}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		name, kind, labels := m[1], m[2], slices.Clone(scraped)
		for l := range strings.FieldsFuncSeq(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) }) {
			labels = append(labels, l)
		}
		if kind != "histogram" {
			known[name] = labels
			continue
		}
		known[name+"_sum"], known[name+"_count"] = labels, labels
		known[name+"_bucket"] = append(slices.Clone(labels), "le")
	}
	if len(known) < 20 {
		t.Fatalf("%s names %d metrics", document, len(known))
	}
	return known
}

// A checker looks at expressions.
type checker struct {
	parser.Parser
	known map[string][]string
}

func newChecker(t *testing.T) checker {
	return checker{parser.NewParser(parser.Options{}), documented(t)}
}

// check reports what is wrong with expr, which stands at place.
func (c checker) check(report func(format string, args ...any), place, expr string) {
	e, err := c.ParseExpr(expr)
	if err != nil {
		report("%s: %s: %v", place, expr, err)
		return
	}
	var available []string // labels of all the metrics in it
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		labels, ok := c.known[s.Name]
		if strings.HasPrefix(s.Name, "go_") || strings.HasPrefix(s.Name, "process_") {
			labels, ok = scraped, true
		}
		if !ok {
			report("%s: podwalld has no metric %s", place, s.Name)
			return nil
		}
		available = append(available, labels...)
		for _, m := range s.LabelMatchers {
			if !slices.Contains(labels, m.Name) {
				report("%s: %s has no label %s", place, s.Name, m.Name)
			}
		}
		return nil
	})
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, l := range a.Grouping {
				if !slices.Contains(available, l) {
					report("%s: nothing in %s has a label %s", place, expr, l)
				}
			}
		}
		return nil
	})
}

func TestAlerts(t *testing.T) {
	c := newChecker(t)
	groups, errs := rulefmt.ParseFile(alerts, false, model.UTF8Validation, c.Parser, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		return
	}
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			c.check(t.Errorf, r.Alert, r.Expr)
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s: want a summary, a description of what to do, and a severity", r.Alert)
			}
			if !strings.Contains(string(doc), "| `"+r.Alert+"` | "+r.Labels["severity"]+" |") {
				t.Errorf("%s does not say what to do about %s, which is %s", document, r.Alert, r.Labels["severity"])
			}
		}
	}
}

// A panel is as much of Grafana's as matters here.
type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct{ Expr string }
}

func TestDashboard(t *testing.T) {
	b, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels      []panel
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Fatal("no panels")
	}
	c := newChecker(t)
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: another has its id, %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for _, q := range d.Panels[:i] {
			if overlap(p, q) {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q: want an expression and a description", p.Title)
		}
		for _, target := range p.Targets {
			c.check(t.Errorf, p.Title, filled(target.Expr))
		}
	}
	for _, a := range d.Annotations.List {
		c.check(t.Errorf, a.Name, filled(a.Expr))
	}
}

// filled is expr with Grafana's variables filled in.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(expr)
}

func overlap(p, q panel) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

// The checker finds what it is there for.
func TestCheckerFinds(t *testing.T) {
	c := newChecker(t)
	for expr, want := range map[string]int{
		`podwall_ready == 0`: 0,
		`sum by (le) (rate(podwall_add_duration_seconds_bucket{result="ok"}[1m]))`: 0,
		`podwall_ready ==`:                                    1,
		`podwall_unheard_of`:                                  1,
		`podwall_add_duration_seconds`:                        1, // a histogram has no series of that name
		`podwall_ready{state="Error"}`:                        1,
		`sum by (pod) (podwall_ready)`:                        1,
		`sum by (pod) (podwall_unheard_of{namespace="shop"})`: 2,
	} {
		found := 0
		c.check(func(string, ...any) { found++ }, "here", expr)
		if found != want {
			t.Errorf("%s: %d findings, want %d", expr, found, want)
		}
	}
}
