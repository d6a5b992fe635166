package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A side is one pod's rules in one direction.
type side struct {
	pod       policy.Pod
	dir       ruleset.Direction
	chain     ruleset.Chain
	enforced  ruleset.Chain // chain, or what audit leaves of it
	stepwise  bool
	selecting []policy.Selection
}

func (e *explainer) side(pod policy.Pod, d ruleset.Direction) side {
	c := e.compile(pod)
	return side{pod: pod, dir: d, chain: c.rules.Chain(d), enforced: c.rules.Enforced(d), stepwise: e.steps, selecting: c.selecting}
}

// A compiled is what judges one pod's flows, in both directions.
type compiled struct {
	rules     ruleset.RuleSet
	selecting []policy.Selection
}

func (x *Explainer) compile(pod policy.Pod) compiled {
	id := End{Namespace: pod.Namespace, Name: pod.Name}
	if c, ok := x.compiled[id]; ok {
		return c
	}
	c := compiled{
		rules: x.w.Compile(policy.Target{
			Pod:                pod,
			Addresses:          pod.Addresses,
			Node:               x.nodeOf(pod),
			NodeEgressByPolicy: x.opts.NodeEgressByPolicy,
		}),
		selecting: x.w.Selecting(pod),
	}
	c.rules.Audit = x.opts.Audited != nil && x.opts.Audited(pod)
	x.compiled[id] = c
	return c
}

// A hop is where a flow goes, or comes from, as a pod's rules see it.
type hop struct {
	name  string
	addr  netip.Addr
	proto ruleset.Proto
	port  uint16 // that the flow was opened to
}

// egress is what the firewall of from says to the flow to to.
func (e *explainer) egress(from, to party) api.Opinion {
	switch {
	case from.pod == nil:
		return unwalled(from)
	case from.is(to):
		return itself(from)
	}
	s := e.side(*from.pod, ruleset.Egress)
	h := hop{name: to.name, addr: to.addr, proto: e.proto, port: e.port}
	fs := e.fronts(to.addr, e.nodeOf(*from.pod))
	if door := e.door(to.addr); door != "" && len(fs) == 0 {
		h.name = fmt.Sprintf("%s (%s)", h.name, door)
		fs = e.fronts(to.addr, []netip.Addr{to.addr})
	}
	if len(fs) > 0 {
		return e.egressToService(s, h, fs)
	}
	return s.judge(h)
}

// ingress is what the firewall of to says to the flow from from.
func (e *explainer) ingress(from, to party) api.Opinion {
	switch {
	case from.is(to):
		return itself(to)
	case to.pod != nil:
		return e.arrive(from, to, e.port)
	}
	var own []netip.Addr
	if from.pod != nil {
		own = e.nodeOf(*from.pod)
	}
	if fs := e.fronts(to.addr, own); len(fs) > 0 {
		return e.ingressOfService(from, fs)
	}
	if len(to.services) > 0 {
		return unserved(to.services[0], e.proto, e.port)
	}
	if door := e.door(to.addr); door != "" {
		return api.Opinion{Verdict: Allow, End: to.name, Reason: fmt.Sprintf("%s is %s: which endpoint gets it, and from which address, is that node's affair", to.name, door)}
	}
	return unwalled(to)
}

// door is the node port that stands at a, which is another node's, and the
// question's port; empty if there is none.
func (e *explainer) door(a netip.Addr) string {
	node := e.nodeAt(a)
	if node == "" {
		return ""
	}
	var names []string
	for s := range e.w.Services() {
		if slices.ContainsFunc(s.Ports, func(p policy.ServicePort) bool { return p.NodePort == e.port && p.Proto == e.proto }) {
			names = append(names, serviceName(s))
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("the node port of %s on node %s", strings.Join(names, " and "), node)
}

// arrive is what pod to says to a flow from from to one of its ports.
func (e *explainer) arrive(from, to party, port uint16) api.Opinion {
	return e.side(*to.pod, ruleset.Ingress).judge(hop{name: from.name, addr: from.addr, proto: e.proto, port: port})
}

// unwalled is the opinion of an end that has no firewall of podwall's.
func unwalled(p party) api.Opinion {
	return api.Opinion{Verdict: Allow, End: p.name, Reason: p.bare + ": podwall has no rules there"}
}

// itself is the opinion of a pod on a flow to itself.
func itself(p party) api.Opinion {
	return api.Opinion{Verdict: Allow, End: p.name, Reason: p.name + " always reaches itself, over loopback"}
}

// judge asks the chain and says why it answers so.
func (s side) judge(h hop) api.Opinion {
	d := s.chain.Decide(h.addr, h.proto, h.port)
	o := api.Opinion{Verdict: Deny, End: podName(s.pod), Tier: d.Tier, Isolated: d.Selected}
	if d.Action == ruleset.Accept {
		o.Verdict = Allow
	}
	if d.Rule != nil && d.Tier != ruleset.TierNode && d.Tier != ruleset.TierService {
		o.Policy, o.Rule = &d.Rule.Origin, &d.Rule.Index
	}
	o.Reason = s.reason(d, h)
	if s.stepwise {
		o.Steps = s.steps(h)
	}
	if o.Verdict == Deny && s.enforced.Decide(h.addr, h.proto, h.port).Action == ruleset.Accept {
		o.Verdict, o.Audited = Allow, true
		o.Reason = podName(s.pod) + " is audited, so it passes; else: " + o.Reason
	}
	return o
}

// reason is one sentence about d.
func (s side) reason(d ruleset.Decision, h hop) string {
	switch {
	case d.Tier == ruleset.TierNode && s.dir == ruleset.Ingress:
		return fmt.Sprintf("%s is the own node of %s, which always reaches it", h.addr, podName(s.pod))
	case d.Tier == ruleset.TierNode:
		return fmt.Sprintf("%s is the own node of %s, which it always reaches", h.addr, podName(s.pod))
	case d.Rule != nil:
		return s.ruleReason(d, h)
	case d.Action != ruleset.Accept:
		return s.isolation(d.Selected, h)
	case slices.ContainsFunc(s.selecting, s.speaks):
		return fmt.Sprintf("no rule denies it and no policy isolates %s for %s", podName(s.pod), s.dir)
	}
	return fmt.Sprintf("no policy selects %s for %s", podName(s.pod), s.dir)
}

// speaks reports whether p is about this direction.
func (s side) speaks(p policy.Selection) bool {
	if s.dir == ruleset.Ingress {
		return p.Ingress
	}
	return p.Egress
}

// ruleReason names the rule that decided and what it is about.
func (s side) ruleReason(d ruleset.Decision, h hop) string {
	verb := "drops"
	if d.Action == ruleset.Accept {
		verb = "accepts"
	}
	for _, m := range d.Rule.Matches {
		for _, p := range m.Ports {
			if p.Contains(h.proto, h.port) && m.Peers.Contains(h.addr) {
				return fmt.Sprintf("%s %s %s[%d] %s %s %s %s", d.Rule.Origin.Kind, d.Rule.Origin, s.dir, d.Rule.Index,
					verb, portWords(p), s.preposition(), peerWords(m.Peers))
			}
		}
	}
	return fmt.Sprintf("%s %s %s[%d] %s it", d.Rule.Origin.Kind, d.Rule.Origin, s.dir, d.Rule.Index, verb)
}

// isolation says who isolates the pod, and which of them can't be honoured.
func (s side) isolation(by []ruleset.Ref, h hop) string {
	names := make([]string, len(by))
	for i, r := range by {
		names[i] = r.String()
	}
	text := fmt.Sprintf("isolated by %s; no rule accepts %s %d %s %s", strings.Join(names, ", "), h.proto, h.port, s.preposition(), h.name)
	for _, p := range s.selecting {
		if p.Broken != "" && slices.Contains(by, p.Policy) {
			text += fmt.Sprintf("; %s can't be honoured and admits nobody: %s", p.Policy, p.Broken)
		}
	}
	return text
}

func (s side) preposition() string {
	if s.dir == ruleset.Ingress {
		return "from"
	}
	return "to"
}

func portWords(p ruleset.Ports) string {
	switch {
	case p.Proto == ruleset.AnyProto:
		return "everything"
	case p == ruleset.AllPorts(p.Proto):
		return "all " + p.Proto.String()
	}
	return p.String()
}

func peerWords(p ruleset.Peers) string {
	switch {
	case p.Any:
		return "anyone"
	case len(p.Prefixes) == 1:
		return "1 peer"
	}
	return fmt.Sprintf("%d peers", len(p.Prefixes))
}
