package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// If a new rule set covers an old one, it takes no flow away: after any change
// that a cluster sees.
func TestCoversIsSoundForChangesOfTheCluster(t *testing.T) {
	r := world{random(t)}
	coversIsSound(t, r, 4000, func() (before, after ruleset.RuleSet) {
		s := r.withServices(r.snapshot(policy.Admin, policy.Standard, policy.Standard, policy.Standard, policy.Baseline))
		target := r.target(s)
		before = policy.New(s).Compile(target)
		r.change(&s, &target)
		return before, policy.New(s).Compile(target)
	})
}

// And after any change of the rules, also to some that Compile would not make.
func TestCoversIsSoundForChangesOfTheRules(t *testing.T) {
	r := world{random(t)}
	coversIsSound(t, r, 8000, func() (before, after ruleset.RuleSet) {
		before = ruleset.RuleSet{Ingress: r.chain(), Egress: ruleset.Chain{Default: ruleset.Accept}}
		after = ruleset.RuleSet{Ingress: r.retouch(before.Ingress), Egress: before.Egress}
		return before, after
	})
}

func coversIsSound(t *testing.T, r world, times int, change func() (before, after ruleset.RuleSet)) {
	t.Helper()
	answers := make(map[bool]int)
	for range times {
		before, after := change()
		if before.Revision() == after.Revision() {
			continue
		}
		covers := after.Covers(before)
		answers[covers]++
		for range 100 {
			if f := r.flow(); covers && f.accepted(before) && !f.accepted(after) {
				t.Fatalf("%s %v %s %d was accepted and is no more, but Covers\nbefore %+v\nafter %+v",
					f.dir, f.peer, f.proto, f.port, before, after)
			}
		}
	}
	if n := min(answers[true], answers[false]); n < 100 {
		t.Errorf("of the changes %v were covered: this proves little", answers)
	}
}

// change makes one of the changes that clusters see.
func (r world) change(s *policy.Snapshot, target *policy.Target) {
	switch r.IntN(6) {
	case 0: // another pod
		s.Pods = append(s.Pods, r.pod(9))
	case 1: // one pod less
		s.Pods = s.Pods[:len(s.Pods)-1]
	case 2: // relabelled
		i := r.IntN(len(s.Pods))
		s.Pods[i].Labels = r.labels()
	case 3: // another policy
		s.Policies = append(s.Policies, r.policies(policy.Standard, policy.Admin)...)
	case 4: // a rule more
		for i := range s.Policies {
			more := r.side(s.Policies[i].Layer == policy.Standard).Rules
			s.Policies[i].Ingress.Rules = append(s.Policies[i].Ingress.Rules, more...)
		}
	case 5: // the node's addresses
		target.Node = append([]netip.Addr{r.addr()}, target.Node...)
	}
}

func (r world) action() ruleset.Action {
	return pick(r, ruleset.Accept, ruleset.Accept, ruleset.Accept, ruleset.Drop, ruleset.Pass)
}

func (r world) chain() ruleset.Chain {
	c := ruleset.Chain{Default: pick(r, ruleset.Accept, ruleset.Drop)}
	for _, name := range []string{ruleset.TierAdmin, ruleset.TierPolicy} {
		t := ruleset.Tier{Name: name, Default: r.action(), Rules: some(r, 3, func() ruleset.Rule {
			return ruleset.Rule{Action: r.action(), Matches: some(r, 2, r.match)}
		})}
		c.Tiers = append(c.Tiers, t)
	}
	return c
}

func (r world) match() ruleset.Match {
	m := ruleset.Match{Ports: some(r, 2, func() ruleset.Ports { return r.port().Ports })}
	if m.Peers = ruleset.Everyone; r.chance(70) {
		m.Peers = ruleset.NewPeers(some(r, 3, r.prefix))
	}
	return m
}

func (r world) prefix() netip.Prefix {
	p, _ := r.addr().Unmap().Prefix(pick(r, 8, 24, 29, 32))
	return p
}

// retouch is c after one or two changes.
func (r world) retouch(c ruleset.Chain) ruleset.Chain {
	c.Tiers = slices.Clone(c.Tiers)
	for range 1 + r.IntN(2) {
		i := r.IntN(len(c.Tiers))
		r.retouchTier(&c.Tiers[i])
	}
	if r.chance(10) {
		c.Default = r.action()
	}
	if r.chance(5) {
		c.Tiers = c.Tiers[1:]
	}
	return c
}

func (r world) retouchTier(t *ruleset.Tier) {
	t.Rules = slices.Clone(t.Rules)
	if len(t.Rules) == 0 || r.chance(20) {
		t.Default = r.action()
		return
	}
	i := r.IntN(len(t.Rules))
	rule := &t.Rules[i]
	rule.Matches = slices.Clone(rule.Matches)
	switch r.IntN(5) {
	case 0:
		t.Rules = slices.Delete(t.Rules, i, i+1)
	case 1:
		t.Rules = append(t.Rules, ruleset.Rule{Action: r.action(), Matches: some(r, 2, r.match)})
	case 2:
		rule.Action = r.action()
	default:
		for j := range rule.Matches {
			r.retouchMatch(&rule.Matches[j])
		}
	}
}

// retouchMatch makes m wider or narrower.
func (r world) retouchMatch(m *ruleset.Match) {
	switch r.IntN(3) {
	case 0:
		m.Peers = ruleset.NewPeers(append(slices.Clone(m.Peers.Prefixes), r.prefix()))
	case 1:
		m.Peers = ruleset.NewPeers(m.Peers.Prefixes[:len(m.Peers.Prefixes)/2])
	case 2:
		m.Ports = slices.Clone(m.Ports)
		for i := range m.Ports {
			m.Ports[i] = ruleset.Ports{Proto: m.Ports[i].Proto, First: m.Ports[i].First, Last: r.portNumber()}
		}
	}
}
