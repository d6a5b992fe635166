package events

import (
	"fmt"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A target is one attachment whose rules log.
type target struct {
	attachment api.Attachment
	revision   string
	rules      ruleset.RuleSet
	// reasons are those of the rules that stand, before those of the rules before:
	// what these logged may be read after they were replaced.
	reasons, before map[string]ruleset.Reason

	hidden  hidden // as the kernel's counters were last told
	unread  bool   // they never were: what they say is old
	stirred bool   // it logged something since
}

// change makes other rules the target's.
func (t *target) change(revision string, rs ruleset.RuleSet) {
	if t.reasons == nil || !rs.SameReasons(&t.rules) {
		t.before, t.reasons = t.reasons, rs.Reasons()
	}
	t.revision, t.rules = revision, rs
}

// why returns the reason that an ID stands for.
func (t *target) why(id string) (ruleset.Reason, bool) {
	if r, ok := t.reasons[id]; ok {
		return r, true
	}
	r, ok := t.before[id]
	return r, ok
}

// event returns what m says, as far as it can be told without looking anything
// up: ends have no names yet but the pod's own.
func (t *target) event(m *message, id string, now time.Time) api.Event {
	p := decodeOf(m)
	why, known := t.why(id)
	e := api.Event{
		Time: m.time, Verdict: why.Fate, Direction: direction(why, m),
		Namespace: t.attachment.Namespace, Pod: podName(t.attachment), ContainerID: t.attachment.ContainerID, Interface: t.attachment.Interface,
		From: api.End{Address: p.src, Port: p.srcPort}, To: api.End{Address: p.dst, Port: p.dstPort},
		Protocol: p.protocol, TCPFlags: p.flags, ICMP: p.icmp, Length: p.length,
	}
	if m.time.IsZero() {
		e.Time = now
	}
	if e.Reply = (e.Direction == ruleset.Ingress) != m.arriving(); e.Reply {
		e.From, e.To = e.To, e.From
	}
	switch {
	case !known:
		e.Reason = api.Reason{Text: "rules that have been replaced since decided"}
	case why.Cause == ruleset.CauseAccept:
		e.Reason = t.accepted(&e, p.proto)
	default:
		e.Reason = reason(why)
	}
	return e
}

func decodeOf(m *message) packet {
	if m.frame() {
		return decodeFrame(m.payload)
	}
	return decode(m.payload)
}

// podName is the pod's name or, for one without, what stands for it.
func podName(a api.Attachment) string {
	_, name, _ := strings.Cut(a.Pod(), "/")
	return name
}

// direction is the one of the flow that m belongs to. Where no rule decided, it
// is the packet's.
func direction(why ruleset.Reason, m *message) ruleset.Direction {
	switch {
	case why.Cause == ruleset.CauseRule, why.Cause == ruleset.CauseIsolation:
		return why.Direction
	case m.arriving():
		return ruleset.Ingress
	}
	return ruleset.Egress
}

// accepted is the reason why the rules accept the flow that e begins. All flows
// are accepted at one place, which does not say it, so the rules are asked again.
func (t *target) accepted(e *api.Event, proto ruleset.Proto) api.Reason {
	d := t.rules.Chain(e.Direction).Decide(e.Peer().Address, proto, e.To.Port)
	r := api.Reason{Cause: ruleset.CauseAccept, Tier: d.Tier, Text: "no policy restricts this direction"}
	switch {
	case d.Rule != nil && d.Action == ruleset.Accept:
		origin, index := d.Rule.Origin, d.Rule.Index
		r.Policy, r.Rule = &origin, &index
		r.Text = fmt.Sprintf("%s %s allows it in %s[%d]", origin.Kind, origin, e.Direction, index)
	case d.Action != ruleset.Accept:
		r.Text = "it was open before the rules, or an audit lets it pass"
	}
	return r
}

// reason is why for people.
func reason(why ruleset.Reason) api.Reason {
	r := api.Reason{Cause: why.Cause, Tier: why.Tier, Isolating: why.Isolating}
	switch why.Cause {
	case ruleset.CauseRule:
		origin, index := why.Origin, why.Index
		r.Policy, r.Rule = &origin, &index
		r.Text = fmt.Sprintf("%s %s denies it in %s[%d]", origin.Kind, origin, why.Direction, index)
	case ruleset.CauseIsolation:
		r.Text = isolation(why)
	case ruleset.CauseUntracked:
		r.Text = "it belongs to no connection"
	case ruleset.CauseForged:
		r.Text = "the pod sent what only its kernel may, or answered what never came in"
	case ruleset.CauseGuard:
		r.Text = "the pod sent it past its IP stack, or with another's address as source"
	}
	return r
}

// isolation says who isolates, and that nobody allows it.
func isolation(why ruleset.Reason) string {
	if len(why.Isolating) == 0 {
		return "the pod is isolated, and no rule allows it"
	}
	names := make([]string, len(why.Isolating))
	for i, r := range why.Isolating {
		names[i] = r.Kind + " " + r.String()
	}
	if len(names) == 1 {
		return fmt.Sprintf("%s isolates the pod for %s and does not allow it", names[0], why.Direction)
	}
	return fmt.Sprintf("%s isolate the pod for %s and none allows it", strings.Join(names, ", "), why.Direction)
}
