package explain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// told is the steps as people read them; the one that decides is marked.
func told(steps []api.Step) string {
	var lines []string
	for _, s := range steps {
		mark := " "
		if s.Decides {
			mark = "*"
		}
		lines = append(lines, fmt.Sprintf("%s%s: %s", mark, s.Tier, s.Text))
	}
	return strings.Join(lines, "\n")
}

func TestSteps(t *testing.T) {
	tests := []struct {
		name            string
		from, to        string
		port            uint16
		egress, ingress string
	}{
		{"a rule that accepts ends it", "shop/web", "shop/api", 8080,
			"*end: no tier decides it: accepted",
			" node: traffic with the pod's own node: about this port, but not 10.0.0.1\n" +
				"*policy: NetworkPolicy shop/api ingress[0] accepts TCP 8080 from 2 peers: accepted"},
		{"a rule that misses says how", "shop/batch", "shop/api", 8080,
			"",
			" node: traffic with the pod's own node: about this port, but not 10.0.0.5\n" +
				" policy: NetworkPolicy shop/api ingress[0] accepts TCP 8080 from 2 peers: about this port, but not 10.0.0.5\n" +
				"*policy: no rule meets it: dropped, as shop/api, shop/default-deny isolate the pod"},
		{"or that it is about another port", "shop/web", "shop/api", 9090,
			"",
			" node: traffic with the pod's own node: about this port, but not 10.0.0.1\n" +
				" policy: NetworkPolicy shop/api ingress[0] accepts TCP 8080 from 2 peers: about 10.0.0.1, but not this port\n" +
				"*policy: no rule meets it: dropped, as shop/api, shop/default-deny isolate the pod"},
		{"the own node comes first", "10.1.0.1", "shop/api", 9090,
			"", "*node: traffic with the pod's own node: accepted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := api.ExplainRequest{From: tt.from, To: tt.to, Port: tt.port, Protocol: ruleset.TCP, Steps: true}
			ex, err := explain.Explain(policy.New(shop()), req, explain.Options{Node: "node-a"})
			if err != nil {
				t.Fatal(err)
			}
			if got := told(ex.Ingress.Steps); got != tt.ingress {
				t.Errorf("ingress:\n%s\nwant\n%s", got, tt.ingress)
			}
			if got := told(ex.Egress.Steps); tt.egress != "" && got != tt.egress {
				t.Errorf("egress:\n%s\nwant\n%s", got, tt.egress)
			}
		})
	}
}

// Steps end with one that decides, which says what the verdict says; without
// being asked for there are none.
func TestStepsLeadToTheVerdict(t *testing.T) {
	w := policy.New(shop())
	asked := 0
	for _, from := range shop().Pods {
		for _, to := range shop().Pods {
			for _, port := range []uint16{80, 8080} {
				req := api.ExplainRequest{From: "shop/" + from.Name, To: "shop/" + to.Name, Port: port, Protocol: ruleset.TCP}
				plain, err := explain.Explain(w, req, explain.Options{})
				if err != nil {
					t.Fatal(err)
				}
				req.Steps = true
				ex, err := explain.Explain(w, req, explain.Options{})
				if err != nil || ex.Verdict != plain.Verdict || ex.Ingress.Reason != plain.Ingress.Reason {
					t.Fatalf("with steps %+v, %v; without %+v", ex, err, plain)
				}
				if len(plain.Ingress.Steps)+len(plain.Egress.Steps) > 0 {
					t.Errorf("steps that nobody asked for: %+v", plain)
				}
				for _, o := range []api.Opinion{ex.Egress, ex.Ingress} {
					if len(o.Steps) == 0 {
						continue // nobody's rules
					}
					asked++
					last := o.Steps[len(o.Steps)-1]
					accepted := strings.HasSuffix(last.Text, "accepted")
					if !last.Decides || accepted != (o.Verdict == explain.Allow) {
						t.Errorf("%s to %s:%d: %s after\n%s", req.From, req.To, port, o.Verdict, told(o.Steps))
					}
				}
			}
		}
	}
	if asked < 100 {
		t.Errorf("only %d opinions have steps", asked)
	}
}

func TestManyRulesAreFewSteps(t *testing.T) {
	var rules []policy.Rule
	for range 50 {
		rules = append(rules, accept(1, "web"))
	}
	s := policy.Snapshot{Pods: []policy.Pod{pod("web", "10.0.0.1"), pod("api", "10.0.0.2")},
		Policies: []policy.Policy{standard("api", "api", policy.Side{}, side(rules...))}}
	req := api.ExplainRequest{From: "shop/web", To: "shop/api", Port: 80, Protocol: ruleset.TCP, Steps: true}
	ex, err := explain.Explain(policy.New(s), req, explain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := told(ex.Ingress.Steps); len(ex.Ingress.Steps) > 25 || !strings.Contains(got, "30 more rules don't meet it") {
		t.Errorf("%d steps:\n%s", len(ex.Ingress.Steps), got)
	}
}

// What an audited pod would have dropped passes, and is said to.
func TestAudited(t *testing.T) {
	opts := explain.Options{Audited: func(p policy.Pod) bool { return p.Name == "api" || p.Name == "caged" }}
	tests := []struct {
		name, from, to   string
		port             uint16
		verdict          string
		egress, ingress  bool
		ingressOrNothing string
	}{
		{"a drop that is audited passes", "shop/batch", "shop/api", 80, "Allow", false, true,
			"shop/api is audited, so it passes; else: isolated by shop/api, shop/default-deny; no rule accepts TCP 80 from shop/batch"},
		{"what a rule accepts is none of it", "shop/web", "shop/api", 8080, "Allow", false, false, ""},
		{"another pod drops as ever", "shop/web", "shop/db", 80, "Deny", false, false, ""},
		{"so on the way out", "shop/caged", "shop/web", 80, "Allow", true, false, ""},
		{"and to a service", "shop/caged", "svc/shop/mixed", 80, "Allow", true, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ex, err := explain.Explain(policy.New(shop()), api.ExplainRequest{From: tt.from, To: tt.to, Port: tt.port, Protocol: ruleset.TCP}, opts)
			if err != nil {
				t.Fatal(err)
			}
			if ex.Verdict != tt.verdict || ex.Egress.Audited != tt.egress || ex.Ingress.Audited != tt.ingress {
				t.Errorf("%+v", ex)
			}
			if tt.ingressOrNothing != "" && ex.Ingress.Reason != tt.ingressOrNothing {
				t.Errorf("ingress: %s", ex.Ingress.Reason)
			}
		})
	}
}

func TestPartiesAreNamed(t *testing.T) {
	for _, tt := range []struct{ end, name, addresses, what string }{
		{"shop/dual", "shop/dual", "[10.0.0.8 fd00::8]", ""},
		{"10.0.0.8", "shop/dual", "[10.0.0.8]", ""},
		{"10.1.0.2", "10.1.0.2", "[10.1.0.2]", "10.1.0.2 is an address of node node-b"},
		{"svc/shop/api", "svc/shop/api", "[10.96.0.1]", ""},
	} {
		ex, err := explain.Explain(policy.New(shop()), api.ExplainRequest{From: "shop/web", To: tt.end, Port: 80, Protocol: ruleset.TCP}, explain.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := ex.To; got.Name != tt.name || fmt.Sprint(got.Addresses) != tt.addresses || got.What != tt.what {
			t.Errorf("%s is %+v", tt.end, got)
		}
	}
}
