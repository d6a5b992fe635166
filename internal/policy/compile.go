package policy

import (
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
func (w *World) Compile(t Target) ruleset.RuleSet {
	selecting := w.selecting(&t.Pod)
	return ruleset.RuleSet{
		Addresses:  distinct(t.Addresses),
		Ingress:    chain(append(node(t.Node), w.tiers(ruleset.Ingress, selecting, &t.Pod)...)),
		Egress:     w.egressChain(t, selecting),
		Adopted:    t.Adopted,
		RawSockets: t.RawSockets,
		Owned:      t.Owned,
	}
}

// distinct returns addrs sorted, each once, unmapped.
func distinct(addrs []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, plain(a))
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
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
func (w *World) tiers(d ruleset.Direction, selecting []*Policy, pod *Pod) []ruleset.Tier {
	var tiers []ruleset.Tier
	for _, layer := range layers {
		t := ruleset.Tier{Name: layer.tier(), Default: ruleset.Pass}
		for _, p := range selecting {
			if p.Layer == layer && p.side(d).Applies {
				t.Selected = append(t.Selected, p.Ref)
				t.Rules = append(t.Rules, w.rules(d, p, pod)...)
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

func (w *World) rules(d ruleset.Direction, p *Policy, pod *Pod) []ruleset.Rule {
	side := p.side(d)
	rules := make([]ruleset.Rule, len(side.Rules))
	for i := range side.Rules {
		r := &side.Rules[i]
		rules[i] = ruleset.Rule{Origin: p.Ref, Index: i, Action: r.Action, Matches: w.matchesOf(d, r, pod)}
	}
	return rules
}

// matchesOf returns what meets r. A named port is looked up at the flow's
// destination: in pod for ingress, in each peer for egress.
func (w *World) matchesOf(d ruleset.Direction, r *Rule, pod *Pod) []ruleset.Match {
	if d == ruleset.Ingress && slices.ContainsFunc(r.Ports, Port.named) {
		return match(w.peersOf(r.Peers), numbers(r.Ports, pod))
	}
	if m, ok := w.matches[r]; ok {
		return m
	}
	m := match(w.peersOf(r.Peers), numbers(r.Ports, &Pod{}))
	if slices.ContainsFunc(r.Ports, Port.named) {
		m = append(m, w.namedMatches(r.Peers, r.Ports)...)
	}
	w.matches[r] = m
	return m
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
	list := pod.numbers(ports)
	for _, p := range ports {
		if !p.named() && p.Ports.Proto != 0 {
			list = append(list, p.Ports)
		}
	}
	slices.SortFunc(list, comparePorts)
	return slices.Compact(list)
}

// numbers returns what pod calls by the names among ports.
func (pod *Pod) numbers(ports []Port) []ruleset.Ports {
	var list []ruleset.Ports
	for _, p := range ports {
		for _, q := range pod.Ports {
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

// peersOf returns the addresses of list. Lists of the same peers, in any order,
// give the same slice.
func (w *World) peersOf(list []Peer) ruleset.Peers {
	key := peersKey(list)
	if peers, ok := w.peers[key]; ok {
		return peers
	}
	peers := w.resolve(list)
	w.peers[key] = peers
	return peers
}

func (w *World) resolve(list []Peer) ruleset.Peers {
	var prefixes []netip.Prefix
	for _, p := range list {
		if p.Any {
			return ruleset.Everyone
		}
		prefixes = append(prefixes, p.Block...)
		for _, pod := range w.pods(p.Pods) {
			for _, a := range pod.Addresses {
				prefixes = append(prefixes, single(a))
			}
		}
	}
	return newPeers(prefixes)
}

// namedMatches returns what meets the named ones of ports at any of list: one
// Match for each number that pods give a name, with the pods that do. Blocks of
// addresses have no names for ports.
func (w *World) namedMatches(list []Peer, ports []Port) []ruleset.Match {
	key := namesKey(ports) + peersKey(list)
	if m, ok := w.named[key]; ok {
		return m
	}
	users := make(map[ruleset.Ports][]netip.Addr)
	for _, peer := range list {
		set := peer.Pods
		if peer.Any {
			set = PodSet{Namespaces: Selector{All: true}, Pods: Selector{All: true}}
		}
		for _, pod := range w.pods(set) {
			for _, n := range pod.numbers(ports) {
				users[n] = append(users[n], pod.Addresses...)
			}
		}
	}
	m := make([]ruleset.Match, 0, len(users))
	for n, addrs := range users {
		m = append(m, ruleset.Match{Peers: peersAt(addrs), Ports: []ruleset.Ports{n}})
	}
	slices.SortFunc(m, func(a, b ruleset.Match) int { return comparePorts(a.Ports[0], b.Ports[0]) })
	w.named[key] = m
	return m
}
