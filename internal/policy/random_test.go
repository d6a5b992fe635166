package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// random returns a source of random numbers and says, should the test fail, how
// to get the same ones again.
func random(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("PODWALL_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with PODWALL_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// A world makes random clusters that are small enough for everything in them to
// meet everything else.
type world struct{ *rand.Rand }

func (r world) chance(percent int) bool { return r.IntN(100) < percent }

func pick[T any](r world, from ...T) T { return from[r.IntN(len(from))] }

// some returns from 0 to n of what one makes.
func some[T any](r world, n int, one func() T) []T {
	list := make([]T, r.IntN(n+1))
	for i := range list {
		list[i] = one()
	}
	return list
}

func (r world) namespaceName() string { return pick(r, "shop", "bank", "lost") }
func (r world) proto() ruleset.Proto {
	return pick(r, ruleset.TCP, ruleset.TCP, ruleset.UDP, ruleset.SCTP)
}
func (r world) portName() string   { return pick(r, "http", "dns", "web") }
func (r world) portNumber() uint16 { return uint16(pick(r, 1, 53, 80, 81, 8080, 30080, 65535)) }

func (r world) labels() policy.Labels {
	labels := make(policy.Labels)
	for _, k := range []string{"app", "tier"} {
		if r.chance(70) {
			labels[k] = pick(r, "a", "b", "c")
		}
	}
	return labels
}

// addr is one that a pod, a Service, a node or none of them has.
func (r world) addr() netip.Addr {
	format := pick(r, "10.0.0.%d", "fd00::%d", "10.96.0.%d", "192.168.0.%d", "::ffff:10.0.0.%d")
	return netip.MustParseAddr(fmt.Sprintf(format, 1+r.IntN(9)))
}

func (r world) selector() policy.Selector {
	if r.chance(30) {
		return policy.Selector{All: true}
	}
	return policy.Selector{Needs: some(r, 2, func() policy.Need {
		return policy.Need{
			Key:    pick(r, "app", "tier"),
			Op:     pick(r, policy.In, policy.In, policy.NotIn, policy.Exists, policy.DoesNotExist),
			Values: []string{pick(r, "a", "b"), pick(r, "b", "c")},
		}
	})}
}

func (r world) podSet() policy.PodSet {
	if r.chance(50) {
		return policy.PodSet{Namespace: r.namespaceName(), Pods: r.selector()}
	}
	return policy.PodSet{Namespaces: r.selector(), Pods: r.selector()}
}

func (r world) peer() policy.Peer {
	switch r.IntN(5) {
	case 0:
		return policy.Peer{Any: true}
	case 1:
		p, _ := r.addr().Prefix(pick(r, 8, 24, 28, 30))
		return policy.Peer{Block: []netip.Prefix{p}}
	}
	return policy.Peer{Pods: r.podSet()}
}

func (r world) port() policy.Port {
	switch r.IntN(4) {
	case 0:
		return policy.Port{Ports: ruleset.AnyPort}
	case 1:
		return policy.Port{Name: r.portName(), Ports: ruleset.Ports{Proto: r.proto()}}
	case 2:
		return policy.Port{Ports: ruleset.AllPorts(r.proto())}
	}
	a, b := r.portNumber(), r.portNumber()
	return policy.Port{Ports: ruleset.Ports{Proto: r.proto(), First: min(a, b), Last: max(a, b)}}
}

func (r world) side(standard bool) policy.Side {
	s := policy.Side{Applies: r.chance(70)}
	if s.Applies {
		s.Rules = some(r, 3, func() policy.Rule {
			rule := policy.Rule{Action: ruleset.Accept, Peers: some(r, 3, r.peer), Ports: some(r, 3, r.port)}
			if !standard {
				rule.Action = pick(r, ruleset.Accept, ruleset.Drop, ruleset.Pass)
			}
			return rule
		})
	}
	return s
}

func (r world) policies(layers ...policy.Layer) []policy.Policy {
	n := 0
	return some(r, 6, func() policy.Policy {
		n++
		p := policy.Policy{Layer: pick(r, layers...), Priority: r.IntN(3), Subject: r.podSet()}
		p.Ref = ruleset.Ref{Kind: fmt.Sprint("Layer", p.Layer), Name: fmt.Sprint("policy-", n)}
		if p.Layer == policy.Standard {
			p.Ref.Namespace = r.namespaceName()
			p.Subject = policy.PodSet{Namespace: p.Ref.Namespace, Pods: r.selector()}
		}
		p.Ingress, p.Egress = r.side(p.Layer == policy.Standard), r.side(p.Layer == policy.Standard)
		return p
	})
}

func (r world) pod(i int) policy.Pod {
	p := policy.Pod{
		Namespace:   r.namespaceName(),
		Name:        fmt.Sprint("pod-", i),
		Labels:      r.labels(),
		Addresses:   []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))},
		HostNetwork: r.chance(10),
		Done:        r.chance(10),
		Ports: some(r, 3, func() policy.NamedPort {
			return policy.NamedPort{Name: r.portName(), Proto: r.proto(), Port: r.portNumber()}
		}),
	}
	if r.chance(70) {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(fmt.Sprintf("fd00::%d", i)))
	}
	return p
}

func (r world) service(i int) (policy.Service, policy.EndpointSlice) {
	s := policy.Service{Namespace: "shop", Name: fmt.Sprint("service-", i), Addresses: some(r, 3, r.addr)}
	s.Ports = []policy.ServicePort{{Name: "p", Proto: r.proto(), Port: r.portNumber()}}
	if r.chance(50) {
		s.Ports[0].NodePort = 30080
	}
	slice := policy.EndpointSlice{Namespace: s.Namespace, Name: s.Name, Service: s.Name,
		Ports: []policy.EndpointPort{{Name: "p", Proto: s.Ports[0].Proto, Port: r.portNumber()}}}
	slice.Endpoints = some(r, 3, func() policy.Endpoint {
		return policy.Endpoint{Addresses: []netip.Addr{r.addr()}, Ready: r.chance(70)}
	})
	return s, slice
}

// snapshot is a cluster whose policies are of layers.
func (r world) snapshot(layers ...policy.Layer) policy.Snapshot {
	s := policy.Snapshot{
		Namespaces: []policy.Namespace{{Name: "shop", Labels: r.labels()}, {Name: "bank", Labels: r.labels()}},
		Policies:   r.policies(layers...),
	}
	for i := range 9 {
		s.Pods = append(s.Pods, r.pod(i+1))
	}
	return s
}

// otherNode is a node's that no target stands on.
var otherNode = netip.MustParseAddr("192.168.0.2")

func (r world) withServices(s policy.Snapshot) policy.Snapshot {
	s.Nodes = []policy.Node{{Name: "other", Addresses: []netip.Addr{otherNode}}}
	for i := range 1 + r.IntN(4) {
		svc, slice := r.service(i)
		s.Services, s.Slices = append(s.Services, svc), append(s.Slices, slice)
	}
	return s
}

// target is a pod of s, on a node at 192.168.0.1 or one that is not known.
func (r world) target(s policy.Snapshot) policy.Target {
	p := pick(r, s.Pods...)
	t := policy.Target{Pod: p, Addresses: p.Addresses, NodeEgressByPolicy: r.chance(30)}
	if r.chance(70) {
		t.Node = []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd00::9")}
	}
	return t
}

// A flow is one between a pod and a peer.
type flow struct {
	dir   ruleset.Direction
	peer  netip.Addr
	proto ruleset.Proto
	port  uint16
}

func (r world) flow() flow {
	f := flow{dir: pick(r, ruleset.Ingress, ruleset.Egress), peer: r.addr(), proto: r.proto(), port: r.portNumber()}
	if r.chance(10) {
		f.proto, f.port = 1, 0 // ICMP
	}
	return f
}

// toService is a flow to one of s's Services, at its own addresses or a node's.
func (r world) toService(s policy.Snapshot) flow {
	svc := pick(r, s.Services...)
	p := svc.Ports[0]
	f := flow{dir: ruleset.Egress, peer: netip.MustParseAddr(pick(r, "192.168.0.1", "fd00::9", otherNode.String())), proto: p.Proto, port: p.NodePort}
	if len(svc.Addresses) > 0 && r.chance(80) {
		f.peer, f.port = pick(r, svc.Addresses...), p.Port
	}
	return f
}

func (f flow) accepted(rs ruleset.RuleSet) bool {
	return rs.Chain(f.dir).Decide(f.peer, f.proto, f.port).Action == ruleset.Accept
}

// What follows is the meaning of a Snapshot, written to be obvious, not fast.

// A model answers by going through everything each time.
type model struct{ policy.Snapshot }

func (m model) namespaceLabels(name string) policy.Labels {
	labels := policy.Labels{"kubernetes.io/metadata.name": name}
	for _, n := range m.Namespaces {
		if n.Name == name {
			for k, v := range n.Labels {
				labels[k] = v
			}
		}
	}
	return labels
}

func (m model) selects(s policy.PodSet, p policy.Pod) bool {
	inside := p.Namespace == s.Namespace
	if s.Namespace == "" {
		inside = s.Namespaces.Picks(m.namespaceLabels(p.Namespace))
	}
	return inside && !p.HostNetwork && s.Pods.Picks(p.Labels)
}

// meets reports whether f is among the flows of pod that rule speaks about.
func (m model) meets(rule policy.Rule, pod policy.Pod, f flow) bool {
	return slices.ContainsFunc(rule.Peers, func(peer policy.Peer) bool {
		return slices.ContainsFunc(rule.Ports, func(port policy.Port) bool {
			if port.Name == "" {
				return port.Ports.Contains(f.proto, f.port) && (m.isPeer(peer, f.peer, nil) || peer.Any)
			}
			named := policy.NamedPort{Name: port.Name, Proto: f.proto, Port: f.port}
			if port.Ports.Proto != f.proto {
				return false
			}
			if f.dir == ruleset.Ingress {
				return slices.Contains(pod.Ports, named) && (m.isPeer(peer, f.peer, nil) || peer.Any)
			}
			return m.isPeer(policy.Peer{Any: peer.Any, Pods: peer.Pods}, f.peer, &named)
		})
	})
}

// isPeer reports whether addr is in a block of peer, or of a pod that is a peer
// and, if named is set, has such a port.
func (m model) isPeer(peer policy.Peer, addr netip.Addr, named *policy.NamedPort) bool {
	addr = addr.Unmap()
	for _, b := range peer.Block {
		b = ruleset.NewPeers([]netip.Prefix{b}).Prefixes[0]
		if b.Contains(addr) {
			return true
		}
	}
	return slices.ContainsFunc(m.Pods, func(p policy.Pod) bool {
		return slices.Contains(p.Addresses, addr) && !p.Done && !p.HostNetwork &&
			(named == nil || slices.Contains(p.Ports, *named)) &&
			(m.selects(peer.Pods, p) || peer.Any)
	})
}

// accepts is what the policies say of a flow, tier by tier.
func (m model) accepts(pod policy.Pod, f flow) bool {
	for _, layer := range []policy.Layer{policy.Admin, policy.Standard, policy.Baseline} {
		action, isolated := ruleset.Pass, false
		for _, p := range sorted(m.Policies) {
			side := p.Ingress
			if f.dir == ruleset.Egress {
				side = p.Egress
			}
			if p.Layer != layer || !side.Applies || !m.selects(p.Subject, pod) {
				continue
			}
			isolated = isolated || layer == policy.Standard
			if i := slices.IndexFunc(side.Rules, func(r policy.Rule) bool { return m.meets(r, pod, f) }); i >= 0 {
				action = side.Rules[i].Action
				break
			}
		}
		if action != ruleset.Pass || isolated {
			return action == ruleset.Accept
		}
	}
	return true
}

func sorted(policies []policy.Policy) []policy.Policy {
	return slices.SortedFunc(slices.Values(policies), func(a, b policy.Policy) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Ref.Name, b.Ref.Name))
	})
}
