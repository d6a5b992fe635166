package matrix

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Matrix is `policyctl matrix -o json`.
type Matrix struct {
	// Asked is the ports of the question, if it is not about all.
	Asked []ruleset.Ports `json:"asked,omitempty"`
	Pods  []Row           `json:"pods"`
	Cells []Cell          `json:"cells"` // row by row: a cell for each pair of Pods
}

// A Row is a pod, or pods of one owner that nothing tells apart.
type Row struct {
	Name      string   `json:"name"` // NAMESPACE/POD, or NAMESPACE/OWNER-* (3)
	Namespace string   `json:"namespace"`
	Pods      []string `json:"pods"`
}

// Some is the verdict of a cell where some ports are allowed; the others are
// explain's.
const Some = "Some"

// A Cell says what one row's pods may reach at another's. In the cell of a
// row with itself that is each other or, if it is a single pod, itself.
type Cell struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Self    bool   `json:"self,omitempty"` // a pod and itself, which it always reaches
	Verdict string `json:"verdict"`
	Ports   []Port `json:"ports"`
}

// A Port is a verdict on some ports.
type Port struct {
	Ports *ruleset.Ports `json:"ports,omitempty"`
	// Other says that this is about all ports that the others are not, of every
	// protocol.
	Other   bool   `json:"other,omitempty"`
	Verdict string `json:"verdict"`
	Egress  Side   `json:"egress"`
	Ingress Side   `json:"ingress"`
}

// A Side is what one end says, and what of its rules does so.
type Side struct {
	Verdict string `json:"verdict"`
	By      string `json:"by"`
	prose   bool   // By is a sentence that may name the pods
	key     string // equal where the decision is, whoever it is about
}

// A Survey is a Matrix in the making.
type Survey struct {
	flows     *explain.Explainer
	pods      []policy.Pod
	only      []ruleset.Ports // ask about these and no other; nil asks about all
	nodePorts []ruleset.Ports // of all Services
	compiled  int             // how many pods' rules are
	judged    [][][]Port      // what each of the first pods may reach at each
	pairs     int             // how many are judged
}

// Begin begins the Survey of pods of w, as a node with these options sees them.
// With only, just those ports are asked about.
func Begin(w *policy.World, opts explain.Options, pods []policy.Pod, only []ruleset.Ports) *Survey {
	s := &Survey{flows: explain.New(w, opts), pods: pods, only: only}
	for svc := range w.Services() {
		for _, p := range svc.Ports {
			if p.NodePort != 0 {
				s.nodePorts = append(s.nodePorts, ruleset.Ports{Proto: p.Proto, First: p.NodePort, Last: p.NodePort})
			}
		}
	}
	return s
}

// pairsAtOnce is how many pairs a Step judges.
const pairsAtOnce = 32

// Step compiles one more pod's rules or, when all are compiled, judges some more
// pairs. It reports whether there is more to do.
func (s *Survey) Step() (more bool, err error) {
	if s.compiled < len(s.pods) {
		s.flows.Rules(s.pods[s.compiled])
		s.compiled++
		return true, nil
	}
	n := len(s.pods)
	for range min(pairsAtOnce, n*n-s.pairs) {
		i, j := s.pairs/n, s.pairs%n
		if j == 0 {
			s.judged = append(s.judged, make([][]Port, n))
		}
		if s.judged[i][j], err = s.pair(s.pods[i], s.pods[j]); err != nil {
			return false, err
		}
		s.pairs++
	}
	return s.pairs < n*n, nil
}

// Matrix is the result, once Step has said that there are no more.
func (s *Survey) Matrix() Matrix {
	m := fold(s.pods, s.judged)
	m.Asked = s.only
	return m
}

// Of is the whole Survey at once.
func Of(w *policy.World, opts explain.Options, pods []policy.Pod, only []ruleset.Ports) (Matrix, error) {
	s := Begin(w, opts, pods, only)
	for {
		switch more, err := s.Step(); {
		case err != nil:
			return Matrix{}, err
		case !more:
			return s.Matrix(), nil
		}
	}
}

// pair is what from may reach at to: the ports that are mentioned, in order and
// joined where the same decides about neighbours, then any other.
func (s *Survey) pair(from, to policy.Pod) ([]Port, error) {
	asked, rest := s.only, ruleset.Ports{}
	if asked == nil {
		asked, rest = split(s.mentioned(from, to))
	}
	if podID(from) == podID(to) {
		asked, rest = nil, ruleset.Ports{Proto: ruleset.TCP, First: 1, Last: 1}
	}
	var list []Port
	for _, p := range asked {
		j, err := s.judge(from, to, p)
		if err != nil {
			return nil, err
		}
		j.Ports = &p
		if n := len(list); n > 0 && list[n-1].continues(j) {
			list[n-1].Ports.Last = p.Last
			continue
		}
		list = append(list, j)
	}
	if rest.First == 0 {
		return list, nil
	}
	j, err := s.judge(from, to, rest)
	j.Other = true
	return append(list, j), err
}

// mentioned is the ports at which to's containers, its rules or from's rules about
// it may make a difference.
func (s *Survey) mentioned(from, to policy.Pod) []ruleset.Ports {
	var list []ruleset.Ports
	for _, n := range to.Ports {
		list = append(list, ruleset.Ports{Proto: n.Proto, First: n.Port, Last: n.Port})
	}
	if to.HostNetwork {
		list = append(list, s.nodePorts...) // its address may be where from meets them
	} else {
		for m := range matchesOf(s.flows.Rules(to).Ingress) {
			list = append(list, m.Ports...)
		}
	}
	if from.HostNetwork {
		return list
	}
	for m := range matchesOf(s.flows.Rules(from).Egress) {
		// A pod on its node's network may have that address from the node alone.
		if to.HostNetwork || slices.ContainsFunc(to.Addresses, m.Peers.Contains) {
			list = append(list, m.Ports...)
		}
	}
	return list
}

// matchesOf yields the matches of all rules of c.
func matchesOf(c ruleset.Chain) func(yield func(ruleset.Match) bool) {
	return func(yield func(ruleset.Match) bool) {
		for _, t := range c.Tiers {
			for _, r := range t.Rules {
				for _, m := range r.Matches {
					if !yield(m) {
						return
					}
				}
			}
		}
	}
}

const lastPort = 1<<16 - 1

// split cuts mentions into ranges inside which no mention begins or ends, and
// returns one port that none mentions: all such ports are judged alike, since only
// rules about every protocol meet them. It is zero if there is none.
func split(mentions []ruleset.Ports) (ranges []ruleset.Ports, rest ruleset.Ports) {
	for _, proto := range []ruleset.Proto{ruleset.TCP, ruleset.UDP, ruleset.SCTP} {
		edges := []int{1, lastPort + 1}
		for _, m := range mentions {
			if m.Proto == proto {
				edges = append(edges, max(1, int(m.First)), int(m.Last)+1)
			}
		}
		slices.Sort(edges)
		edges = slices.Compact(edges)
		for i, first := range edges[:len(edges)-1] {
			r := ruleset.Ports{Proto: proto, First: uint16(first), Last: uint16(edges[i+1] - 1)}
			switch about := func(m ruleset.Ports) bool { return m.Proto == proto && m.Contains(proto, r.First) }; {
			case slices.ContainsFunc(mentions, about):
				ranges = append(ranges, r)
			case rest.First == 0:
				rest = ruleset.Ports{Proto: proto, First: r.First, Last: r.First}
			}
		}
	}
	return ranges, rest
}

// judge asks about the first port of p.
func (s *Survey) judge(from, to policy.Pod, p ruleset.Ports) (Port, error) {
	ex, err := s.flows.Flow(explain.End{Namespace: from.Namespace, Name: from.Name}, explain.End{Namespace: to.Namespace, Name: to.Name}, p.Proto, p.First)
	return Port{Verdict: ex.Verdict, Egress: sideOf(ex.Egress, ruleset.Egress), Ingress: sideOf(ex.Ingress, ruleset.Ingress)}, err
}

func sideOf(o api.Opinion, d ruleset.Direction) Side {
	side := Side{Verdict: o.Verdict, By: o.Reason, prose: true}
	switch {
	case o.Policy != nil:
		side.By, side.prose = fmt.Sprintf("%s %s %s[%d]", o.Policy.Kind, o.Policy, d, *o.Rule), false
	case len(o.Isolated) > 0:
		names := make([]string, len(o.Isolated))
		for i, r := range o.Isolated {
			names[i] = r.String()
		}
		side.By, side.prose = "isolated by "+strings.Join(names, ", "), false
	}
	if o.Audited {
		side.By = "audited; else " + side.By
	}
	side.key = o.Verdict + " " + o.Tier
	if !side.prose {
		side.key += " " + side.By
	}
	return side
}

// continues reports whether next begins where p ends, and the same decides.
func (p Port) continues(next Port) bool {
	return p.Ports.Proto == next.Ports.Proto && int(p.Ports.Last)+1 == int(next.Ports.First) && p.decision() == next.decision()
}

// decision is equal where verdicts and what decides are.
func (p Port) decision() string { return p.Egress.key + " / " + p.Ingress.key }

// verdictOn is the verdict on all of ports.
func verdictOn(ports []Port) string {
	allowed := 0
	for _, p := range ports {
		if p.Verdict == explain.Allow {
			allowed++
		}
	}
	switch allowed {
	case 0:
		return explain.Deny
	case len(ports):
		return explain.Allow
	}
	return Some
}

// Words is which ports c.Ports[i] is about.
func (c Cell) Words(i int) string {
	p := c.Ports[i]
	switch {
	case p.Other && len(c.Ports) == 1:
		return "every port"
	case p.Other:
		return "any other"
	case p.Ports.First == 1 && p.Ports.Last == lastPort:
		return "all " + ruleset.AllPorts(p.Ports.Proto).String()
	}
	return p.Ports.String()
}

// List is the ports of c on which the verdict is verdict, in words.
func (c Cell) List(verdict string) string {
	var words []string
	for i, p := range c.Ports {
		if p.Verdict == verdict {
			words = append(words, c.Words(i))
		}
	}
	return strings.Join(words, ", ")
}
