package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// The verdicts, as api.Explanation has them.
const (
	Allow = "Allow"
	Deny  = "Deny"
)

// Options are what a node knows beyond its World.
type Options struct {
	// Node is this node's name and NodeAddresses are its addresses, beside those
	// that the World gives it.
	Node          string
	NodeAddresses []netip.Addr
	// NodeEgressByPolicy says that pods don't always reach their own node.
	NodeEgressByPolicy bool
	// Audited reports whether what NetworkPolicies would drop of a pod passes. Nil
	// means that it does nowhere.
	Audited func(policy.Pod) bool
}

// Explain says what becomes of the flow that req describes. An end that does not
// exist or can't be judged is an *api.Error.
func Explain(w *policy.World, req api.ExplainRequest, opts Options) (api.Explanation, error) {
	return New(w, opts).Explain(req)
}

// An Explainer answers many questions about one World. It compiles each pod once,
// when it is first asked about it. Like the World, it must not be used by two
// goroutines at once.
type Explainer struct {
	w        *policy.World
	opts     Options
	compiled map[End]compiled // by the pod
}

// New returns an Explainer of w.
func New(w *policy.World, opts Options) *Explainer {
	return &Explainer{w: w, opts: opts, compiled: make(map[End]compiled)}
}

// Explain is the function Explain about the Explainer's World.
func (x *Explainer) Explain(req api.ExplainRequest) (api.Explanation, error) {
	from, to, err := Parse(req)
	if err != nil {
		return api.Explanation{}, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return x.flow(explainer{Explainer: x, proto: req.Protocol, port: req.Port, steps: req.Steps}, from, to)
}

// Flow is Explain for ends that have been parsed, or were never text.
func (x *Explainer) Flow(from, to End, proto ruleset.Proto, port uint16) (api.Explanation, error) {
	return x.flow(explainer{Explainer: x, proto: proto, port: port}, from, to)
}

func (x *Explainer) flow(e explainer, from, to End) (api.Explanation, error) {
	source, err := e.find(from)
	if err != nil {
		return api.Explanation{}, err
	}
	target, err := e.find(to)
	if err != nil {
		return api.Explanation{}, err
	}
	ex := e.flows(source, target)
	ex.From, ex.To = source.party(), target.party()
	return ex, nil
}

// Rules returns the rules by which flows of pod, one of the World's, are judged.
func (x *Explainer) Rules(pod policy.Pod) ruleset.RuleSet { return x.compile(pod).rules }

// An explainer is one question.
type explainer struct {
	*Explainer
	proto ruleset.Proto
	port  uint16
	steps bool // asked for
}

// flows judges every pair of the two ends' addresses.
func (e *explainer) flows(from, to end) api.Explanation {
	for _, why := range []string{from.nowhere, to.nowhere} {
		if why != "" {
			return denied(from, to, why)
		}
	}
	var egress, ingress []judged
	for _, f := range from.parties {
		for _, t := range to.parties {
			if f.addr.BitLen() == t.addr.BitLen() {
				egress = append(egress, judged{t.addr, e.egress(f, t)})
				ingress = append(ingress, judged{t.addr, e.ingress(f, t)})
			}
		}
	}
	if len(egress) == 0 {
		return denied(from, to, fmt.Sprintf("%s has only %s and %s only %s: they share no family of addresses",
			from.name, family(from.parties[0].addr), to.name, family(to.parties[0].addr)))
	}
	ex := api.Explanation{Verdict: Deny, Egress: merge(egress), Ingress: merge(ingress)}
	if ex.Egress.Verdict == Allow && ex.Ingress.Verdict == Allow {
		ex.Verdict = Allow
	}
	return ex
}

// denied is the answer about a flow that can't exist.
func denied(from, to end, why string) api.Explanation {
	return api.Explanation{
		Verdict: Deny,
		Egress:  api.Opinion{Verdict: Deny, End: from.name, Reason: why},
		Ingress: api.Opinion{Verdict: Deny, End: to.name, Reason: why},
	}
}

// A judged is an opinion on the flow to one address.
type judged struct {
	to netip.Addr
	api.Opinion
}

// merge makes one opinion of those on all the flows: the first that denies, or
// if none does what all say. Where they differ it says which flow it speaks of.
func merge(all []judged) api.Opinion {
	for _, j := range all {
		if j.Verdict != Allow {
			return j.about(all)
		}
	}
	o := all[0].about(all)
	said := []string{all[0].Reason}
	for _, j := range all[1:] {
		if !slices.Contains(said, j.Reason) {
			said = append(said, j.Reason)
			o.Reason += "; " + j.about(all).Reason
			o.Audited = o.Audited || j.Audited
		}
	}
	return o
}

// about is the opinion with the flow it speaks of, where others say otherwise:
// by its family if that tells it from them, else by its address.
func (j judged) about(all []judged) api.Opinion {
	differs := func(k judged) bool { return k.Reason != j.Reason }
	if !slices.ContainsFunc(all, differs) {
		return j.Opinion
	}
	name := family(j.to)
	if slices.ContainsFunc(all, func(k judged) bool { return k.to != j.to && k.to.BitLen() == j.to.BitLen() }) {
		name = j.to.String()
	}
	o := j.Opinion
	o.Reason = name + ": " + o.Reason
	return o
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
