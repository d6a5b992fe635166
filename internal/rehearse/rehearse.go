// Package rehearse says what a change of policy would do to flows that were
// observed, before it is applied.
//
//	Evidence ──┬── as it is ────────▶ Judge each flow ──┐
//	           └── after the Change ─▶ Judge each flow ──┴─▶ Rehearsal
//
// # Contract
//
// Of is pure, and applies nothing. Both sides of a comparison are judged by the
// same rules that would stand in the kernel; what was observed says only which
// flows to ask about. A flow that can't be judged is listed with the reason, and
// is never counted as one that passes on.
package rehearse

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Rehearsal is `policyctl rehearse -o json`.
type Rehearsal struct {
	Node  string `json:"node"`
	Edits []Edit `json:"edits"`
	// Problems are what of the manifests can't be honoured. What such a policy does
	// is rehearsed as podwalld would treat it: it isolates and admits nobody.
	Problems []api.Problem `json:"problems"`
	Began    time.Time     `json:"began"` // when the oldest observation may have been made
	Observed int           `json:"observed"`
	Denied   int           `json:"denied"` // flows that passed and would not any more
	Changes  []Change      `json:"changes"`
	Isolated []Isolation   `json:"isolation"`
	Unjudged []Unjudged    `json:"unjudged"`
}

// An Edit is what becomes of one object.
type Edit struct {
	Object string `json:"object"` // kind namespace/name
	Effect Effect `json:"effect"`
}

// An Effect is what becomes of an object.
type Effect string

// The effects.
const (
	Added     Effect = "added"
	Changed   Effect = "changed"
	Deleted   Effect = "deleted"
	Unchanged Effect = "unchanged"
	Taken     Effect = "taken" // in place of what the node knows by that name, if anything
)

// A Change is a flow about which the rules would say something else.
type Change struct {
	Flow
	Now  api.Opinion `json:"now"`
	Then api.Opinion `json:"then"`
}

// Denies reports whether a flow that was seen to pass, and now does, would not.
func (c *Change) Denies() bool {
	return c.Accepted+c.Audited > 0 && c.Now.Verdict == explain.Allow && c.Then.Verdict != explain.Allow
}

// A Flow is what was observed of the two ends, a destination port, a protocol and
// one end's rules.
type Flow struct {
	From      api.End           `json:"from"`
	To        api.End           `json:"to"`
	Protocol  string            `json:"protocol"`
	Direction ruleset.Direction `json:"direction"` // ingress: To's rules are asked, egress: From's
	Accepted  uint64            `json:"accepted"`  // flows
	Audited   uint64            `json:"audited"`   // flows
	Dropped   uint64            `json:"dropped"`   // packets
	First     time.Time         `json:"first"`
	Last      time.Time         `json:"last"`
}

// An Isolation is a pod of the node that becomes isolated, or is no longer.
type Isolation struct {
	Pod       string            `json:"pod"`
	Direction ruleset.Direction `json:"direction"`
	Becomes   bool              `json:"becomes"` // isolated; else it is no longer
	By        []ruleset.Ref     `json:"by"`      // the policies that will isolate it, or do now
}

// Unjudged is a flow that can't be judged, and why.
type Unjudged struct {
	Flow
	Reason string `json:"reason"`
}

// Of rehearses change. Problems are those of the manifests it was read from.
func Of(e evidence.Evidence, change policy.Change, problems []api.Problem) (Rehearsal, error) {
	r := Rehearsal{Node: e.Node, Began: e.Flows.Began, Problems: append([]api.Problem{}, problems...),
		Changes: []Change{}, Isolated: []Isolation{}, Unjudged: []Unjudged{}}
	now := e.Stage(policy.Change{})
	change.Set.Pods = settled(now.World, change.Set.Pods)
	var err error
	if r.Edits, err = edits(now.World, e.World.Policies, change); err != nil {
		return Rehearsal{}, err
	}
	then := e.Stage(change)
	r.Isolated = append(r.Isolated, isolations(e.Pods, now, then)...)
	for _, f := range merged(e.Flows.Flows) {
		r.Observed++
		before, err := now.Judge(&f.flow)
		after, errThen := then.Judge(&f.flow)
		switch err = cmp.Or(err, errThen); {
		case err != nil:
			r.Unjudged = append(r.Unjudged, Unjudged{f.Flow, err.Error()})
		case before.Verdict != after.Verdict || before.Audited != after.Audited:
			c := Change{f.Flow, before, after}
			r.Changes = append(r.Changes, c)
			if c.Denies() {
				r.Denied++
			}
		}
	}
	slices.SortStableFunc(r.Changes, func(a, b Change) int { return cmp.Compare(a.rank(), b.rank()) })
	return r, nil
}

// rank puts first what matters most: what passed and would be denied, and last
// what would be allowed.
func (c *Change) rank() int {
	switch {
	case c.Denies():
		return 0
	case c.Then.Verdict != explain.Allow:
		return 1
	case c.Then.Audited:
		return 2
	}
	return 3
}

// A seen is a Flow with one of those it was made of.
type seen struct {
	Flow
	flow api.Flow
}

// merged makes one of the flows that only their verdicts tell apart. The most
// recent comes first. Drops that are not policy's affair are left out.
func merged(flows []api.Flow) []*seen {
	type key struct {
		from, to, protocol string
		port               uint16
		direction          ruleset.Direction
	}
	at := map[key]*seen{}
	var list []*seen
	for _, f := range flows {
		if !evidence.ByPolicy(&f) {
			continue
		}
		k := key{Name(&f.From), Name(&f.To), f.Protocol, f.To.Port, f.Direction}
		m := at[k]
		if m == nil {
			m = &seen{Flow{From: f.From, To: f.To, Protocol: f.Protocol, Direction: f.Direction, First: f.First, Last: f.Last}, f}
			at[k], list = m, append(list, m)
		}
		switch f.Verdict {
		case ruleset.Accepted:
			m.Accepted += f.Count
		case ruleset.Audited:
			m.Audited += f.Count
		default:
			m.Dropped += f.Count
		}
		if f.First.Before(m.First) {
			m.First = f.First
		}
		if f.Last.After(m.Last) {
			m.Last = f.Last
		}
	}
	slices.SortStableFunc(list, func(a, b *seen) int { return b.Last.Compare(a.Last) })
	return list
}

// Name is an end's name or, if nobody is known to have it, its address.
func Name(e *api.End) string { return cmp.Or(e.Name(), e.Address.String()) }

// settled gives pods, as manifests have them, what only the node knows: where
// they are.
func settled(w *policy.World, pods []policy.Pod) []policy.Pod {
	pods = slices.Clone(pods)
	for i := range pods {
		p := &pods[i]
		known, ok := w.Pod(p.Namespace, p.Name)
		if ok && len(p.Addresses) == 0 {
			p.Addresses = known.Addresses
		}
		if ok && p.Node == "" {
			p.Node = known.Node
		}
	}
	return pods
}

// edits names the objects of change. A policy to be deleted that does not exist is
// an error that suggests what was perhaps meant.
func edits(w *policy.World, present []policy.Policy, change policy.Change) ([]Edit, error) {
	before := map[ruleset.Ref]policy.Policy{}
	var known []string
	for _, p := range present {
		before[p.Ref] = p
		known = append(known, p.Ref.String())
	}
	list := []Edit{}
	for _, p := range change.Set.Policies {
		old, ok := before[p.Ref]
		effect := Changed
		switch {
		case !ok:
			effect = Added
		case reflect.DeepEqual(old, p):
			effect = Unchanged
		}
		list = append(list, Edit{p.Ref.Kind + " " + p.Ref.String(), effect})
	}
	for _, ref := range change.Gone.Policies {
		if _, ok := before[ref]; !ok {
			err := fmt.Errorf("delete %s %s: the node knows no such policy", ref.Kind, ref)
			if near := explain.Near(ref.String(), known); len(near) > 0 {
				err = fmt.Errorf("%w; did you mean %s?", err, near[0])
			}
			return nil, err
		}
		list = append(list, Edit{ref.Kind + " " + ref.String(), Deleted})
	}
	taken := func(kind, namespace, name string) {
		list = append(list, Edit{kind + " " + ruleset.Ref{Namespace: namespace, Name: name}.String(), Taken})
	}
	for _, n := range change.Set.Namespaces {
		taken("Namespace", "", n.Name)
	}
	for _, n := range change.Set.Nodes {
		taken("Node", "", n.Name)
	}
	for _, p := range change.Set.Pods {
		taken("Pod", p.Namespace, p.Name)
	}
	for _, s := range change.Set.Services {
		taken("Service", s.Namespace, s.Name)
	}
	for _, s := range change.Set.Slices {
		taken("EndpointSlice", s.Namespace, s.Name)
	}
	return list, nil
}

// isolations compares how pods are isolated.
func isolations(pods []evidence.Pod, now, then *evidence.Stage) []Isolation {
	var list []Isolation
	for _, p := range pods {
		before, was := now.World.Pod(p.Namespace, p.Name)
		after, is := then.World.Pod(p.Namespace, p.Name)
		if !was || !is {
			continue
		}
		old, rules := now.Rules(before), then.Rules(after)
		for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
			i := Isolation{Pod: p.Namespace + "/" + p.Name, Direction: d, Becomes: rules.Isolated(d)}
			if i.Becomes == old.Isolated(d) {
				continue
			}
			if i.Becomes {
				i.By = isolating(rules.Chain(d))
			} else {
				i.By = isolating(old.Chain(d))
			}
			list = append(list, i)
		}
	}
	return list
}

// isolating is the policies that isolate.
func isolating(c ruleset.Chain) []ruleset.Ref {
	for _, t := range c.Tiers {
		if t.Name == ruleset.TierPolicy {
			return t.Selected
		}
	}
	return []ruleset.Ref{}
}
