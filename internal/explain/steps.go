package explain

import (
	"fmt"
	"strings"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// shownRules is how many rules of one tier that don't meet the flow are steps of
// their own.
const shownRules = 20

// steps is what happens to the flow in s's chain, tier by tier, rule by rule. It
// ends where Decide does.
func (s side) steps(h hop) []api.Step {
	var list []api.Step
	for _, t := range s.chain.Tiers {
		steps, decided := s.tierSteps(t, h)
		list = append(list, steps...)
		if decided {
			return list
		}
	}
	verb := "dropped"
	if s.chain.Default == ruleset.Accept {
		verb = "accepted"
	}
	return append(list, api.Step{Tier: "end", Decides: true, Text: "no tier decides it: " + verb})
}

// tierSteps is what happens to the flow in one tier, and whether that decides it.
func (s side) tierSteps(t ruleset.Tier, h hop) (list []api.Step, decided bool) {
	passed := 0
	for i := range t.Rules {
		r := &t.Rules[i]
		step := api.Step{Tier: t.Name, Text: ruleWords(t.Name, s.dir, r)}
		if t.Name != ruleset.TierNode && t.Name != ruleset.TierService {
			step.Policy, step.Rule = &r.Origin, &r.Index
		}
		if misses := missed(r, h); misses != "" {
			if passed++; passed <= shownRules {
				step.Text += ": " + misses
				list = append(list, step)
			}
			continue
		}
		list = appendRest(list, t.Name, passed)
		step.Decides = r.Action != ruleset.Pass
		step.Text += ": " + outcome(r.Action)
		return append(list, step), step.Decides
	}
	list = appendRest(list, t.Name, passed)
	if t.Default == ruleset.Pass {
		return list, false
	}
	text := "no rule meets it: " + outcome(t.Default)
	if t.Default == ruleset.Drop && len(t.Selected) > 0 {
		names := make([]string, len(t.Selected))
		for i, p := range t.Selected {
			names[i] = p.String()
		}
		text += ", as " + strings.Join(names, ", ") + " " + verbFor(len(names), "isolates", "isolate") + " the pod"
	}
	return append(list, api.Step{Tier: t.Name, Decides: true, Text: text}), true
}

// appendRest adds a step for the rules that have none of their own.
func appendRest(list []api.Step, tier string, passed int) []api.Step {
	if passed > shownRules {
		list = append(list, api.Step{Tier: tier, Text: fmt.Sprintf("%d more rules don't meet it", passed-shownRules)})
	}
	return list
}

// missed says why r does not meet the flow; empty if it does.
func missed(r *ruleset.Rule, h hop) string {
	peer, port := false, false
	for _, m := range r.Matches {
		here := m.Peers.Contains(h.addr)
		for _, p := range m.Ports {
			there := p.Contains(h.proto, h.port)
			if here && there {
				return ""
			}
			port = port || there
		}
		peer = peer || here
	}
	switch {
	case peer:
		return "about " + h.addr.String() + ", but not this port"
	case port:
		return "about this port, but not " + h.addr.String()
	case len(r.Matches) == 0:
		return "about nobody"
	}
	return "about neither " + h.addr.String() + " nor this port"
}

// ruleWords is a rule in a few words.
func ruleWords(tier string, d ruleset.Direction, r *ruleset.Rule) string {
	switch tier {
	case ruleset.TierNode:
		return "traffic with the pod's own node"
	case ruleset.TierService:
		return "virtual addresses of " + r.Origin.Kind + " " + r.Origin.String()
	}
	verb := map[ruleset.Action]string{ruleset.Accept: "accepts", ruleset.Drop: "drops", ruleset.Pass: "passes on"}[r.Action]
	var matches []string
	for _, m := range r.Matches {
		for _, p := range m.Ports {
			if len(matches) < 3 {
				matches = append(matches, fmt.Sprintf("%s %s %s", portWords(p), side{dir: d}.preposition(), peerWords(m.Peers)))
			}
		}
	}
	if len(matches) == 0 {
		matches = []string{"nothing"}
	}
	return fmt.Sprintf("%s %s %s[%d] %s %s", r.Origin.Kind, r.Origin, d, r.Index, verb, strings.Join(matches, ", "))
}

func outcome(a ruleset.Action) string {
	switch a {
	case ruleset.Accept:
		return "accepted"
	case ruleset.Pass:
		return "left to the next tier"
	}
	return "dropped"
}

func verbFor(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}
