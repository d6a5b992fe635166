package expect

import (
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
)

// A path is one of the ways that a flow between two names may take: names have
// addresses of both families, and Services have endpoints.
type path struct {
	to          string // the address, or address:port of the endpoint
	explanation api.Explanation
}

// open returns a path of flow that is allowed, if there is one. Explain speaks of
// a flow as denied if any of its paths is; who expects a deny means all of them.
func (c *Cluster) open(from, to explain.End, flow api.ExplainRequest) (path, bool, error) {
	for _, f := range c.addresses(from) {
		for _, t := range c.addresses(to) {
			if f.BitLen() != t.BitLen() {
				continue
			}
			p, ok, err := c.openAt(t, api.ExplainRequest{From: f.String(), To: t.String(), Port: flow.Port, Protocol: flow.Protocol})
			if err != nil || ok {
				return p, ok, err
			}
		}
	}
	return path{}, false, nil
}

// openAt is open for a flow between the addresses of flow, where to is the second.
func (c *Cluster) openAt(to netip.Addr, flow api.ExplainRequest) (path, bool, error) {
	ex, err := c.flows.Explain(flow)
	if err != nil || ex.Verdict == explain.Allow {
		return path{flow.To, ex}, err == nil, err
	}
	if ex.Egress.Verdict != explain.Allow {
		return path{}, false, nil // which holds for all endpoints behind the address
	}
	for _, b := range c.endpoints(to, flow) {
		behind := flow
		behind.To, behind.Port = b.Addr().String(), b.Port()
		arrival, err := c.flows.Explain(behind)
		if err != nil {
			return path{}, false, err
		}
		if arrival.Ingress.Verdict == explain.Allow {
			ex.Verdict, ex.Ingress = explain.Allow, arrival.Ingress
			return path{b.String(), ex}, true, nil
		}
	}
	return path{}, false, nil
}

// addresses is what n stands for.
func (c *Cluster) addresses(n explain.End) []netip.Addr {
	switch {
	case n.Addr.IsValid():
		return []netip.Addr{n.Addr}
	case n.Service:
		s, _ := c.world.Service(n.Namespace, n.Name)
		if len(s.Addresses) > 0 {
			return s.Addresses
		}
		return c.headless(s)
	}
	pod, _ := c.world.Pod(n.Namespace, n.Name)
	if pod.HostNetwork && len(pod.Addresses) == 0 {
		node, _ := c.world.Node(pod.Node)
		return node.Addresses
	}
	return pod.Addresses
}

// headless is the addresses that the name of s stands for.
func (c *Cluster) headless(s policy.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range s.Ports {
		for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			for _, b := range c.world.Backends(s, p, family) {
				if b.Ready {
					addrs = append(addrs, b.Addr.Addr())
				}
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// endpoints is the ready ones behind address a and flow's port, a Service's or a
// node's.
func (c *Cluster) endpoints(a netip.Addr, flow api.ExplainRequest) []netip.AddrPort {
	var list []netip.AddrPort
	for s := range c.world.Services() {
		for _, p := range s.Ports {
			virtual := p.Port == flow.Port && slices.Contains(s.Addresses, a)
			if p.Proto != flow.Protocol || !virtual && !(p.NodePort == flow.Port && c.isNode(a)) {
				continue
			}
			for _, b := range c.world.Backends(s, p, a) {
				if b.Ready {
					list = append(list, b.Addr)
				}
			}
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return slices.Compact(list)
}

func (c *Cluster) isNode(a netip.Addr) bool {
	for n := range c.world.Nodes() {
		if slices.Contains(n.Addresses, a) {
			return true
		}
	}
	return false
}
