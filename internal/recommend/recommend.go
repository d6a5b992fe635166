// Package recommend writes the least NetworkPolicies that allow what was observed
// to be accepted.
//
//	Evidence ──▶ flows by workload ──▶ rules ──▶ without what would ──▶ YAML ──▶ Check
//	                                             open a dropped flow
//
// # Contract
//
// A flow that was only dropped is never allowed: where no label tells it from one
// that was accepted, neither is, and Left says so. What else can't be written as a
// policy is in Left, too; every other accepted flow is allowed, and on no other
// port. Equal Evidence gives equal text.
package recommend

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/rehearse"
	"github.com/podwall/podwall/internal/ruleset"
)

// Options narrow what is recommended.
type Options struct {
	Namespace, Pod string // of the pods to be isolated; Pod is NAMESPACE/POD
	Audited        bool   // flows that passed by an audit alone count as accepted
}

// A Recommendation is policies with the evidence for each rule.
type Recommendation struct {
	Node     string   `json:"node"`
	Policies []Policy `json:"policies"`
	Left     []string `json:"left"`  // accepted flows that the policies do not allow, and why
	Notes    []string `json:"notes"` // what the evidence can't show
	left     map[flowKey]bool
}

// A Policy isolates one workload in both directions.
type Policy struct {
	policy.Policy
	About    []string   `json:"about"`
	Evidence [][]string `json:"ingressEvidence"` // by ingress rule
	Egress   [][]string `json:"egressEvidence"`  // by egress rule
}

// A flowKey is what the flows of one kind have in common, but for the verdict.
type flowKey struct {
	from, to, protocol string
	port               uint16
	direction          ruleset.Direction
}

func keyOf(f *api.Flow) flowKey {
	return flowKey{rehearse.Name(&f.From), rehearse.Name(&f.To), f.Protocol, f.To.Port, f.Direction}
}

// inScope reports whether f's verdict is one of a pod that o is about.
func (o Options) inScope(f *api.Flow) bool {
	l := evidence.Local(f)
	return evidence.ByPolicy(f) && l.Pod != "" && o.covers(l.Namespace, l.Pod)
}

func (o Options) covers(namespace, pod string) bool {
	return (o.Namespace == "" || o.Namespace == namespace) && (o.Pod == "" || o.Pod == namespace+"/"+pod)
}

func (o Options) accepted(f *api.Flow) bool {
	return f.Verdict == ruleset.Accepted || o.Audited && f.Verdict == ruleset.Audited
}

// split returns the flows in scope that were accepted, and those that were only
// dropped. What one end let go and the other end only dropped was never accepted;
// it is in neither.
func (o Options) split(e *evidence.Evidence) (accepted, dropped []api.Flow) {
	passed, halted := map[flowKey]bool{}, o.halted(e)
	for _, f := range e.Flows.Flows {
		if o.inScope(&f) && o.accepted(&f) && !halted[otherEnd(keyOf(&f))] {
			accepted = append(accepted, f)
			passed[keyOf(&f)] = true
		}
	}
	for _, f := range e.Flows.Flows {
		if o.inScope(&f) && f.Verdict == ruleset.Dropped && !passed[keyOf(&f)] {
			dropped = append(dropped, f)
		}
	}
	return accepted, dropped
}

// halted are the flows that were only dropped, whosever pod that was.
func (o Options) halted(e *evidence.Evidence) map[flowKey]bool {
	halted := map[flowKey]bool{}
	for _, f := range e.Flows.Flows {
		if evidence.ByPolicy(&f) && f.Verdict == ruleset.Dropped {
			halted[keyOf(&f)] = true
		}
	}
	for _, f := range e.Flows.Flows {
		if o.accepted(&f) {
			delete(halted, keyOf(&f))
		}
	}
	return halted
}

// otherEnd is k as the other end judges it.
func otherEnd(k flowKey) flowKey {
	if k.direction == ruleset.Ingress {
		k.direction = ruleset.Egress
	} else {
		k.direction = ruleset.Ingress
	}
	return k
}

// Of recommends policies. Without any, Policies is empty and Notes say why.
func Of(e evidence.Evidence, o Options) Recommendation {
	w := newWriter(&e)
	accepted, dropped := o.split(&e)
	if len(accepted) == 0 {
		return w.recommendation()
	}
	for _, p := range e.Pods {
		if !o.covers(p.Namespace, p.Name) {
			continue
		}
		if p.Accepts {
			w.subject(policy.Name{Namespace: p.Namespace, Name: p.Name})
		} else {
			w.note("%s/%s: its accepted flows are not observed now; it has a policy only if some were seen before", p.Namespace, p.Name)
		}
	}
	slices.SortFunc(accepted, func(a, b api.Flow) int { return compareKeys(keyOf(&a), keyOf(&b)) })
	slices.SortFunc(dropped, func(a, b api.Flow) int { return compareKeys(keyOf(&a), keyOf(&b)) })
	for i := range accepted {
		w.allow(&accepted[i])
	}
	w.withdraw(&e, accepted, dropped)
	return w.recommendation()
}

func compareKeys(a, b flowKey) int {
	return cmp.Or(cmp.Compare(a.direction, b.direction), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to),
		cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port))
}

// alone is the Change that leaves of all NetworkPolicies only these.
func alone(e *evidence.Evidence, policies []policy.Policy) policy.Change {
	c := policy.Change{Set: policy.Snapshot{Policies: policies}}
	for _, p := range e.World.Policies {
		if p.Layer == policy.Standard && !slices.ContainsFunc(policies, func(q policy.Policy) bool { return q.Ref == p.Ref }) {
			c.Gone.Policies = append(c.Gone.Policies, p.Ref)
		}
	}
	return c
}

// Check returns an error that names a flow about which policies, as they were read
// back from r's text, say otherwise than they should.
func (r Recommendation) Check(e evidence.Evidence, o Options, policies []policy.Policy) error {
	stage := e.Stage(alone(&e, policies))
	accepted, dropped := o.split(&e)
	for i := range accepted {
		f := &accepted[i]
		if r.left[keyOf(f)] {
			continue
		}
		op, err := stage.Judge(f)
		if err != nil {
			return fmt.Errorf("check the policies: %s to %s: %w", rehearse.Name(&f.From), rehearse.Name(&f.To), err)
		}
		if op.Verdict != explain.Allow {
			return fmt.Errorf("check the policies: %s to %s port %d was accepted and would be denied: %s", rehearse.Name(&f.From), rehearse.Name(&f.To), f.To.Port, op.Reason)
		}
	}
	for i := range dropped {
		f := &dropped[i]
		if op, err := stage.Judge(f); err == nil && op.Verdict == explain.Allow && op.Policy != nil {
			return fmt.Errorf("check the policies: %s to %s port %d was only dropped and would be allowed: %s", rehearse.Name(&f.From), rehearse.Name(&f.To), f.To.Port, op.Reason)
		}
	}
	return nil
}

// compiled is r's policies as the compiler has them.
func (r Recommendation) compiled() []policy.Policy {
	var list []policy.Policy
	for _, p := range r.Policies {
		list = append(list, p.Policy)
	}
	return list
}

// withdraw takes back the rules that would allow a flow that was only dropped.
func (w *writer) withdraw(e *evidence.Evidence, accepted, dropped []api.Flow) {
	for again := true; again; {
		again = false
		stage := e.Stage(alone(e, w.recommendation().compiled()))
		for i := range dropped {
			f := &dropped[i]
			op, err := stage.Judge(f)
			if err != nil || op.Verdict != explain.Allow || op.Policy == nil || op.Rule == nil {
				continue
			}
			if s := w.byRef[*op.Policy]; s != nil && s.drop(f.Direction, *op.Rule) {
				w.note("%s to %s port %d was only ever dropped (last %s), and no label tells it from what was accepted, so neither is allowed; if that has been put right since, name a later moment with --since",
					rehearse.Name(&f.From), rehearse.Name(&f.To), f.To.Port, f.Last.UTC().Format("2006-01-02 15:04:05"))
				again = true
				break
			}
		}
	}
	stage := e.Stage(alone(e, w.recommendation().compiled()))
	for i := range accepted {
		f := &accepted[i]
		if op, err := stage.Judge(f); !w.left[keyOf(f)] && (err != nil || op.Verdict != explain.Allow) {
			why := op.Reason
			if err != nil {
				why = err.Error()
			}
			w.leave(f, why)
		}
	}
}

// blockOf is a alone.
func blockOf(a netip.Addr) policy.Peer {
	a = a.Unmap().WithZone("")
	return policy.Peer{Block: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}}
}

// exactly picks the pods of one workload: with some of its labels, as few as tell
// it from others, and without labels that only others have.
func exactly(own policy.Labels, others []policy.Labels) (policy.Selector, bool) {
	keys := slices.SortedFunc(maps.Keys(own), func(a, b string) int {
		return cmp.Or(cmp.Compare(preference(a), preference(b)), cmp.Compare(a, b))
	})
	var needs []policy.Need
	left := others
	for _, k := range keys {
		need := policy.Need{Key: k, Op: policy.In, Values: []string{own[k]}}
		rest := slices.DeleteFunc(slices.Clone(left), func(l policy.Labels) bool { return l[k] != own[k] })
		if len(needs) > 0 && len(rest) == len(left) {
			continue // it tells nobody apart
		}
		needs, left = append(needs, need), rest
		if len(left) == 0 {
			break
		}
	}
	for _, other := range slices.Clone(left) { // what they have and it has not
		if (policy.Selector{Needs: needs}).Picks(other) || len(needs) == 0 {
			extra := slices.Sorted(maps.Keys(other))
			extra = slices.DeleteFunc(extra, func(k string) bool { _, ok := own[k]; return ok })
			if len(extra) == 0 {
				return policy.Selector{}, false
			}
			need := policy.Need{Key: extra[0], Op: policy.DoesNotExist}
			if !slices.ContainsFunc(needs, func(n policy.Need) bool { return n.Key == need.Key }) {
				needs = append(needs, need)
			}
		}
	}
	if len(needs) == 0 {
		return policy.Selector{All: true}, true
	}
	return policy.Selector{Needs: needs}, true
}

// preference puts first the labels that name a workload and last those that change
// with its version.
func preference(key string) int {
	first := []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "k8s-app", "app", "name", "component", "role", "tier"}
	if i := slices.Index(first, key); i >= 0 {
		return i
	}
	if slices.Contains([]string{"app.kubernetes.io/version", "helm.sh/chart", "version", "chart"}, key) {
		return 100
	}
	return 50
}
