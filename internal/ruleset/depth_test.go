package ruleset_test

import (
	"fmt"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// stack is how many chains deep the kernel follows jumps and gotos when it checks a
// table (NFT_JUMP_STACK_SIZE); deeper tables it refuses.
const stack = 16

// depth is the length of the longest way through t from its entrances.
func depth(t ruleset.Table) int {
	next := make(map[string][]string)
	for _, s := range t.Sets {
		next["@"+s.Name] = s.Targets
	}
	for _, b := range t.Blocks {
		for _, l := range b.Lines {
			switch l.Verdict.Kind {
			case ruleset.VerdictGoto, ruleset.VerdictJump:
				next[b.Name] = append(next[b.Name], l.Verdict.Target)
			case ruleset.VerdictMap:
				next[b.Name] = append(next[b.Name], next["@"+l.Verdict.Target]...)
			}
		}
	}
	longest := make(map[string]int)
	var from func(name string) int
	from = func(name string) int {
		if d, known := longest[name]; known {
			return d
		}
		d := 0
		for _, n := range next[name] {
			d = max(d, from(n))
		}
		longest[name] = d + 1
		return d + 1
	}
	d := 0
	for _, b := range t.Blocks {
		if b.Hook != ruleset.NoHook {
			d = max(d, from(b.Name))
		}
	}
	return d
}

// A rule set with every tier, of which those pass something on that can, with
// thousands of ports, for a pod that ran before, is not too deep for the kernel.
func TestNoTableIsTooDeep(t *testing.T) {
	var tiers []ruleset.Tier
	for _, name := range []string{ruleset.TierService, ruleset.TierNode, ruleset.TierAdmin, ruleset.TierPolicy, ruleset.TierBaseline} {
		tier := ruleset.Tier{Name: name, Default: ruleset.Pass, Rules: []ruleset.Rule{named("node", accept, "10.9.9.9/32", tcp(1, 1))}}
		if name == ruleset.TierService || name == ruleset.TierAdmin {
			tier.Rules[0].Action = ruleset.Pass
		}
		if name == ruleset.TierBaseline {
			tier.Default = ruleset.Drop
			for port := 1; port < 10_000; port += 2 {
				tier.Rules = append(tier.Rules, named(fmt.Sprint("p", port), accept, "10.0.0.3/32", tcp(uint16(port), uint16(port))))
			}
		}
		tiers = append(tiers, tier)
	}
	rs := ruleset.RuleSet{Ingress: chain(accept, tiers...), Egress: chain(accept, tiers...), Adopted: ruleset.AdoptedNow, Log: ruleset.Logging{Drops: true}}
	if got := depth(rs.Lower("eth0", 1)); got > stack {
		t.Errorf("the table is %d chains deep, want at most %d", got, stack)
	} else {
		t.Logf("%d chains deep", got)
	}
}
