package policy

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// Compile returns the firewall of t. A direction that nothing restricts has no
// tiers; the others have, in this order, those of
//
//	service   virtual addresses where the endpoints behind them decide otherwise (egress)
//	node      the pod's own node (egress unless t.NodeEgressByPolicy)
//	admin     policies of Layer Admin
//	policy    NetworkPolicies, which drop what none of them accepts
//	baseline  policies of Layer Baseline
//
// that hold anything. What all tiers pass on is accepted.
func (w *World) Compile(t Target) ruleset.RuleSet { return w.Firewall(t, nil).Rules }

// A compiler compiles one rule set, and notes what from.
type compiler struct {
	*World
	serial uint64
	cells  []*cell
}

// uses notes that the rule set is worked out from cells.
func (c *compiler) uses(cells ...*cell) {
	for _, one := range cells {
		if one.seen != c.serial {
			one.seen = c.serial
			c.cells = append(c.cells, one)
		}
	}
}

func (c *compiler) compile(t *Target) ruleset.RuleSet {
	selecting := c.selecting(&t.Pod)
	return ruleset.RuleSet{
		Addresses:  distinct(t.Addresses),
		Ingress:    chain(append(node(t.Node), c.tiers(ruleset.Ingress, selecting, &t.Pod)...)),
		Egress:     c.egressChain(t, selecting),
		Adopted:    t.Adopted,
		RawSockets: t.RawSockets,
		Owned:      t.Owned,
	}
}

// chain is tiers, or nothing if they restrict nothing.
func chain(tiers []ruleset.Tier) ruleset.Chain {
	c := ruleset.Chain{Tiers: tiers, Default: ruleset.Accept}
	if c.Open() {
		c.Tiers = nil
	}
	return c
}

// node is the tier that admits the pod's own node, if that has an address.
func node(addrs []netip.Addr) []ruleset.Tier {
	if len(addrs) == 0 {
		return nil
	}
	return []ruleset.Tier{{
		Name: ruleset.TierNode,
		Rules: []ruleset.Rule{{
			Origin:  ruleset.Ref{Kind: "Node", Name: "own-node"},
			Action:  ruleset.Accept,
			Matches: []ruleset.Match{{Peers: peersAt(addrs), Ports: []ruleset.Ports{ruleset.AnyPort}}},
		}},
		Default: ruleset.Pass,
	}}
}

// peersAt is the set of addrs.
func peersAt(addrs []netip.Addr) ruleset.Peers {
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		prefixes[i] = single(a)
	}
	return newPeers(prefixes)
}

// newPeers is ruleset.NewPeers, with the one way to write nobody.
func newPeers(prefixes []netip.Prefix) ruleset.Peers {
	if len(prefixes) == 0 {
		return ruleset.Peers{}
	}
	return ruleset.NewPeers(prefixes)
}

// tiers returns the tiers of the policies that select pod, without empty ones.
func (c *compiler) tiers(d ruleset.Direction, selecting []*held, pod *Pod) []ruleset.Tier {
	var tiers []ruleset.Tier
	for _, layer := range layers {
		t := ruleset.Tier{Name: layer.tier(), Default: ruleset.Pass}
		for _, p := range selecting {
			if q := c.policy(p); q.Layer == layer && q.side(d).Applies {
				t.Selected = append(t.Selected, p.Ref)
				t.Rules = append(t.Rules, c.rules(d, p, pod)...)
			}
		}
		if layer == Standard && len(t.Selected) > 0 {
			t.Default = ruleset.Drop
		}
		if len(t.Rules) > 0 || t.Default == ruleset.Drop {
			tiers = append(tiers, t)
		}
	}
	return tiers
}

// tier is the name of the tier in which policies of l stand.
func (l Layer) tier() string {
	switch l {
	case Admin:
		return ruleset.TierAdmin
	case Baseline:
		return ruleset.TierBaseline
	}
	return ruleset.TierPolicy
}

func (p *Policy) side(d ruleset.Direction) *Side {
	if d == ruleset.Ingress {
		return &p.Ingress
	}
	return &p.Egress
}

// A side is the rules of a policy in one direction, for all pods alike but for
// the ports in it that pods have other numbers for.
type side struct {
	cell
	basis
	rules []ruleset.Rule
	peers []ruleset.Peers // by rule
	named bool            // some ports depend on the pod
}

type sideOf struct {
	policy    *held
	direction ruleset.Direction
}

// rules returns the rules of p for pod. A named port is looked up at the flow's
// destination: in pod for ingress, in each peer for egress.
func (c *compiler) rules(d ruleset.Direction, p *held, pod *Pod) []ruleset.Rule {
	key := sideOf{p, d}
	s := c.sides[key]
	if s == nil || !s.holds() {
		s = c.side(key)
		c.sides[key] = s
	}
	c.uses(&s.cell)
	c.uses(s.cells...)
	if !s.named {
		return s.rules
	}
	rules := slices.Clone(s.rules)
	for i, r := range c.policy(p).side(d).Rules {
		if slices.ContainsFunc(r.Ports, Port.named) {
			rules[i].Matches = match(s.peers[i], numbers(r.Ports, pod))
		}
	}
	return rules
}

// side works out the rules of a policy in one direction.
func (w *World) side(of sideOf) *side {
	rules := w.policy(of.policy).side(of.direction).Rules
	s := &side{basis: basis{at: w.now}, rules: make([]ruleset.Rule, len(rules)), peers: make([]ruleset.Peers, len(rules))}
	for i, r := range rules {
		named := slices.ContainsFunc(r.Ports, Port.named)
		perPod := named && of.direction == ruleset.Ingress
		s.named = s.named || perPod
		ports := numbers(r.Ports, &Pod{})
		if len(ports) > 0 || perPod {
			g := w.gather(r.Peers, nil)
			s.cells = append(s.cells, &g.cell)
			s.peers[i] = g.lists[ruleset.Ports{}]
		}
		s.rules[i] = ruleset.Rule{Origin: of.policy.Ref, Index: i, Action: r.Action, Matches: match(s.peers[i], ports)}
		if named && of.direction == ruleset.Egress {
			g := w.gather(r.Peers, r.Ports)
			s.cells = append(s.cells, &g.cell)
			s.rules[i].Matches = append(s.rules[i].Matches, g.matches...)
		}
	}
	return s
}

// match is met by flows with peers to ports, of which there may be none.
func match(peers ruleset.Peers, ports []ruleset.Ports) []ruleset.Match {
	if len(ports) == 0 {
		return nil
	}
	return []ruleset.Match{{Peers: peers, Ports: ports}}
}

func (p Port) named() bool { return p.Name != "" }

// numbers returns ports with pod's numbers for the named ones, sorted.
func numbers(ports []Port, pod *Pod) []ruleset.Ports {
	list := numbersOf(slices.Values(pod.Ports), ports)
	for _, p := range ports {
		if !p.named() && p.Ports.Proto != 0 {
			list = append(list, p.Ports)
		}
	}
	slices.SortFunc(list, comparePorts)
	return slices.Compact(list)
}

// numbersOf returns what a pod with these ports calls by the names among wanted.
func numbersOf(ports iter.Seq[NamedPort], wanted []Port) []ruleset.Ports {
	var list []ruleset.Ports
	for q := range ports {
		for _, p := range wanted {
			if p.named() && q.Name == p.Name && q.Proto == p.Ports.Proto {
				list = append(list, ruleset.Ports{Proto: q.Proto, First: q.Port, Last: q.Port})
			}
		}
	}
	return list
}

func comparePorts(a, b ruleset.Ports) int {
	if a.Proto != b.Proto {
		return int(a.Proto) - int(b.Proto)
	}
	if a.First != b.First {
		return int(a.First) - int(b.First)
	}
	return int(a.Last) - int(b.Last)
}
