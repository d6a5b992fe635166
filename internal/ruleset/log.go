package ruleset

import (
	"fmt"
	"slices"
	"strings"
)

// Logging says which packets of an attachment the kernel copies to the daemon,
// and how many of them at most. What is beyond the limit is counted instead. The
// zero Logging copies nothing.
type Logging struct {
	Drops   bool   `json:"drops,omitempty"`
	Accepts bool   `json:"accepts,omitempty"` // the first packet of each new flow
	Rate    uint32 `json:"rate,omitempty"`    // packets a second; counts as 1 if it is 0
	Burst   uint32 `json:"burst,omitempty"`   // at once, after a quiet time
}

// LogGroup is the NFLOG group of everything that podwall logs. One process in a
// network namespace can listen to a group.
const LogGroup = 9469

// A Fate is what became of a packet that was logged. The zero Fate is the worst.
type Fate uint8

const (
	Dropped  Fate = iota // the zero Fate
	Accepted             // the first packet of a flow
	Audited              // accepted, though a policy would drop it
)

var fateNames = [...]string{Dropped: "Drop", Accepted: "Accept", Audited: "Audit"}

// String is "Drop", "Accept" or "Audit".
func (f Fate) String() string { return fateNames[f] }

// MarshalText writes String.
func (f Fate) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other text is an error.
func (f *Fate) UnmarshalText(b []byte) error {
	i := slices.Index(fateNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("verdict %q: want Drop, Accept or Audit", b)
	}
	*f = Fate(i)
	return nil
}

// A Cause is the kind of a Reason.
type Cause string

const (
	CauseRule      Cause = "rule"      // a policy's
	CauseIsolation Cause = "isolation" // policies isolate the pod, and none allows the flow
	CauseUntracked Cause = "untracked" // the packet belongs to no connection
	CauseForged    Cause = "forged"    // the pod said in it what it has no business to say
	CauseGuard     Cause = "guard"     // the pod sent a frame past the IP stack, or with another's source
	CauseAccept    Cause = "accept"    // a rule or the end of all tiers accepts
)

// A Reason is why a packet was logged.
type Reason struct {
	Fate      Fate
	Cause     Cause
	Direction Direction // of the flow; only with CauseRule and CauseIsolation
	Tier      string    // that decided
	Origin    Ref       // of the rule, with CauseRule
	Index     int       // of the rule
	Isolating []Ref     // with CauseIsolation
}

// maxReason is the longest ID: with the longest prefix of an interface before it,
// the kernel still takes it as the prefix of a log line (127 bytes).
const maxReason = 90

// ID names r within an attachment. Different reasons of one rule set have
// different ones, save rules of one name. What is logged bears it behind the
// attachment's Prefix, and so does the block that logs it.
func (r Reason) ID() string {
	verb := map[Fate]string{Dropped: "drop", Accepted: "accept", Audited: "audit"}[r.Fate]
	switch r.Cause {
	case CauseAccept:
		return verb
	case CauseRule:
		id := verb + "/" + counterID(r.Direction, r.Tier, Rule{Origin: r.Origin, Index: r.Index})
		if len(id) > maxReason {
			id = verb + "/" + r.Direction.String() + "/" + digest(id)
		}
		return id
	case CauseIsolation:
		// Who isolates is part of the name, so that a packet which is read after
		// the rules have changed still finds those that dropped it.
		return verb + "/" + r.Direction.String() + "/isolated-" + strings.TrimPrefix(digest(isolatedBy(r.Isolating)), hashMark)[:8]
	}
	return verb + "/" + string(r.Cause)
}

// Reasons returns every reason for which a packet of rs may be logged, by ID.
func (rs *RuleSet) Reasons() map[string]Reason {
	all := map[string]Reason{}
	add := func(r Reason) { all[r.ID()] = r }
	for _, d := range []Direction{Ingress, Egress} {
		for _, t := range rs.Chain(d).Tiers {
			for _, r := range t.Rules {
				add(rs.refusal(d, t.Name, r))
			}
			add(rs.isolation(d, t.Name, t.Selected))
		}
		add(rs.isolation(d, "", nil))
	}
	for _, c := range []Cause{CauseUntracked, CauseForged, CauseGuard} {
		add(Reason{Cause: c})
	}
	add(Reason{Fate: Accepted, Cause: CauseAccept})
	return all
}

// SameReasons reports whether the Reasons of both rule sets are known to be the
// same: as nearly always, if only peers have come or gone.
func (rs *RuleSet) SameReasons(other *RuleSet) bool {
	sameRule := func(a, b Rule) bool { return a.Origin == b.Origin && a.Index == b.Index && a.Action == b.Action }
	sameTier := func(a, b Tier) bool {
		return a.Name == b.Name && a.Default == b.Default && slices.Equal(a.Selected, b.Selected) && slices.EqualFunc(a.Rules, b.Rules, sameRule)
	}
	return rs.Audit == other.Audit && slices.EqualFunc(rs.Ingress.Tiers, other.Ingress.Tiers, sameTier) &&
		slices.EqualFunc(rs.Egress.Tiers, other.Egress.Tiers, sameTier)
}

// refusal is the reason why rule r of a tier refuses.
func (rs *RuleSet) refusal(d Direction, tier string, r Rule) Reason {
	return Reason{Fate: rs.fate(d, tier), Cause: CauseRule, Direction: d, Tier: tier, Origin: r.Origin, Index: r.Index}
}

// isolation is the reason why the end of a tier, or of all of them, refuses.
func (rs *RuleSet) isolation(d Direction, tier string, isolating []Ref) Reason {
	return Reason{Fate: rs.fate(d, tier), Cause: CauseIsolation, Direction: d, Tier: tier, Isolating: isolating}
}

// fate is what becomes of what a tier refuses. An audit is asked for by whoever
// owns the pod or its namespace: it suspends NetworkPolicies, and what follows
// from them at Services, but nothing that an administrator denies.
func (rs *RuleSet) fate(d Direction, tier string) Fate {
	switch {
	case !rs.Audit:
	case tier == TierPolicy:
		return Audited
	case tier == TierService && !slices.ContainsFunc(rs.Chain(d).Tiers, Tier.administrators):
		return Audited
	}
	return Dropped
}

// administrators reports whether t drops something that NetworkPolicy has no say
// in.
func (t Tier) administrators() bool {
	drops := func(r Rule) bool { return r.Action == Drop }
	return (t.Name == TierAdmin || t.Name == TierBaseline) && (t.Default == Drop || slices.ContainsFunc(t.Rules, drops))
}

// Enforced is the chain of direction d as flows really meet it: what is only
// audited accepts instead of dropping.
func (rs *RuleSet) Enforced(d Direction) Chain {
	c := rs.Chain(d)
	if !rs.Audit {
		return c
	}
	c.Tiers = slices.Clone(c.Tiers)
	for i, t := range c.Tiers {
		if rs.fate(d, t.Name) != Audited {
			continue
		}
		c.Tiers[i].Rules = slices.Clone(t.Rules)
		for j := range t.Rules {
			c.Tiers[i].Rules[j].Action = unlessDrop(t.Rules[j].Action)
		}
		c.Tiers[i].Default = unlessDrop(t.Default)
	}
	return c
}

// unlessDrop is a, or Accept instead of Drop.
func unlessDrop(a Action) Action {
	if a == Drop {
		return Accept
	}
	return a
}

// open reports whether every flow of direction d passes.
func (rs *RuleSet) open(d Direction) bool { return rs.Enforced(d).Open() }

// HiddenCounter is the name of the counter of the drops, and of what an audit
// let pass, that were beyond the limit of what is logged.
func HiddenCounter(iface string) string { return Prefix(iface) + "log/hidden" }

// HiddenGuardCounter is HiddenCounter for what the guard stopped.
func HiddenGuardCounter(iface string) string { return Prefix(iface) + "guard/hidden" }

// HiddenAcceptsCounter is HiddenCounter for accepted flows.
func HiddenAcceptsCounter(iface string) string { return Prefix(iface) + "log/hidden-accepts" }

// AuditCounter is the name of the counter of the flows of direction d that no
// rule accepted and that passed all the same.
func AuditCounter(iface string, d Direction) string { return Prefix(iface) + d.String() + "/audit" }

// limit adds a limit of what is logged to the table. Its name says what it is,
// since the kernel can't change one that exists.
func (t *Table) limit(what string, l Logging) string {
	limit := Limit{Rate: max(l.Rate, 1), Burst: max(l.Burst, 1)}
	limit.Name = fmt.Sprintf("%s%s-%d-%d", Prefix(t.Interface), what, limit.Rate, limit.Burst)
	if !slices.Contains(t.Limits, limit) {
		t.Limits = append(t.Limits, limit)
	}
	return limit.Name
}

// counter adds a counter to the table, unless it has it.
func (t *Table) counter(name string) string {
	if !slices.Contains(t.Counters, name) {
		t.Counters = append(t.Counters, name)
	}
	return name
}

// logged returns the block that logs packets for a reason and then gives them
// their verdict. Those beyond the limit get it without: only what is refused
// ever comes here, so logging costs nothing where nothing is.
func (t *Table) logged(r Reason, l Logging, hidden string, end Verdict) Block {
	name := Prefix(t.Interface) + r.ID()
	return Block{Name: name, Lines: []Line{
		{Conds: []Cond{{Key: KeyBeyond, Limit: t.limit("log", l)}}, Counter: t.counter(hidden), Verdict: end, Comment: "more than are logged"},
		{Log: name, Verdict: end},
	}}
}

// refuse is the verdict for what is refused for reason r. If that is logged, it
// is a block's.
func (l *lowerer) refuse(r Reason) Verdict {
	end := drop()
	switch {
	case r.Fate == Audited:
		end = goTo(l.name("accept"))
	case !l.rs.Log.Drops:
		return end
	}
	b := l.table.logged(r, l.rs.Log, HiddenCounter(l.table.Interface), end)
	if !slices.ContainsFunc(l.logs, func(o Block) bool { return o.Name == b.Name }) {
		l.logs = append(l.logs, b)
	}
	return goTo(b.Name)
}

// accepting are the lines that log the flows which the block stamps, between
// stamping and accepting them. Flows that are judged again are not new.
func (l *lowerer) accepting() []Line {
	limit := l.table.limit("log-accepts", l.rs.Log)
	return []Line{
		{Conds: []Cond{{Key: KeyNew}, {Key: KeyBeyond, Limit: limit}}, Counter: l.counter(HiddenAcceptsCounter(l.table.Interface)),
			Verdict: accept(), Comment: "more than are logged"},
		{Conds: []Cond{{Key: KeyNew}}, Log: l.name(Reason{Fate: Accepted, Cause: CauseAccept}.ID()), Verdict: Verdict{Kind: VerdictContinue}},
	}
}
