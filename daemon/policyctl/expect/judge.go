package expect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/conf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Cluster is what expectations are compared with.
type Cluster struct {
	world    *policy.World
	flows    *explain.Explainer // compiles each pod once
	policies []string
}

// NewCluster returns the cluster that s describes.
func NewCluster(s policy.Snapshot) *Cluster {
	w := policy.New(s)
	c := &Cluster{world: w, flows: explain.New(w, explain.Options{})}
	for _, p := range s.Policies {
		c.policies = append(c.policies, p.Ref.String())
	}
	return c
}

// A Result says whether an expectation holds for one flow.
type Result struct {
	Expectation Expectation
	Flow        api.ExplainRequest
	Explanation api.Explanation
	Missed      string // why the expectation is not met, in a few words; empty if it is
}

// Judge compares e with what becomes of each of its flows. An end or a policy
// that the cluster does not have is an error, and there are no results then.
func (c *Cluster) Judge(e Expectation) ([]Result, error) {
	if err := c.check(e); err != nil {
		return nil, err
	}
	var results []Result
	for _, flow := range e.Flows() {
		r, err := c.judge(e, flow)
		if err != nil {
			return nil, &conf.Error{Object: e.object(), Err: err}
		}
		results = append(results, r)
	}
	return results, nil
}

// judge compares e with what becomes of one flow.
func (c *Cluster) judge(e Expectation, flow api.ExplainRequest) (Result, error) {
	from, to, err := explain.Parse(flow)
	if err != nil {
		return Result{}, err
	}
	ex, err := c.flows.Explain(flow)
	if err != nil {
		return Result{}, err
	}
	r := Result{Expectation: e, Flow: flow, Explanation: ex, Missed: missed(e, ex)}
	if e.Expect != Deny || r.Missed != "" {
		return r, nil
	}
	p, open, err := c.open(from, to, flow)
	if open {
		r.Explanation, r.Missed = p.explanation, "is allowed to "+p.to+", one of several"
	}
	return r, err
}

// check looks up every name in e.
func (c *Cluster) check(e Expectation) error {
	var errs []error
	bad := func(field string, err error) {
		if err != nil {
			errs = append(errs, &conf.Error{Object: e.object(), Field: field, Err: err})
		}
	}
	for _, from := range e.From {
		bad("from", c.find(from, e.Protocol))
	}
	for _, to := range e.To {
		bad("to", c.find(to, e.Protocol))
	}
	bad("because", c.checkPolicy(e.Because))
	return errors.Join(errs...)
}

// find returns the error by which every flow to n would be refused, or nil. It
// asks about one from an address that nobody has, so that the error is n's.
func (c *Cluster) find(n explain.End, proto ruleset.Proto) error {
	flow := api.ExplainRequest{From: netip.IPv4Unspecified().String(), To: n.String(), Port: 1, Protocol: proto}
	_, err := c.flows.Explain(flow)
	return err
}

func (c *Cluster) checkPolicy(name string) error {
	if name == "" || slices.Contains(c.policies, name) {
		return nil
	}
	if near := explain.Near(name, c.policies); len(near) > 0 {
		return fmt.Errorf("policy %s: not found; did you mean %s?", name, strings.Join(near, " or "))
	}
	return fmt.Errorf("policy %s: not found", name)
}

// missed says why ex is not what e expects; empty if it is.
func missed(e Expectation, ex api.Explanation) string {
	var deciding []api.Opinion
	for _, o := range []api.Opinion{ex.Egress, ex.Ingress} {
		if o.Verdict == ex.Verdict {
			deciding = append(deciding, o)
		}
	}
	judged := func(o api.Opinion) bool { return o.Tier != "" }
	decides := func(o api.Opinion) bool { return decidedBy(o, e.Because) }
	allowed := ex.Verdict == explain.Allow
	switch {
	case !allowed && !slices.ContainsFunc(deciding, judged):
		return "can't exist, whatever policies say"
	case allowed && e.Expect != Allow:
		return "is allowed"
	case !allowed && e.Expect != Deny:
		return "is denied"
	case e.Because != "" && !slices.ContainsFunc(deciding, decides):
		return "is so, but not because of " + e.Because
	}
	return ""
}

// decidedBy reports whether it is the policy called name that o comes from: its
// rule decided, or, where none did, it is one of those that isolate.
func decidedBy(o api.Opinion, name string) bool {
	if o.Policy != nil {
		return o.Policy.String() == name
	}
	return slices.ContainsFunc(o.Isolated, func(r ruleset.Ref) bool { return r.String() == name })
}
