package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// An end is an End that was found.
type end struct {
	name    string
	parties []party // at least one, unless nowhere says why there is none
	nowhere string
}

// A party is an end at one of its addresses.
type party struct {
	name     string
	addr     netip.Addr
	pod      *policy.Pod      // whose rules judge; nil if there are none
	bare     string           // if pod is nil: what stands there instead
	services []policy.Service // whose virtual address this is
}

// party is the end as answers have it.
func (e end) party() api.Party {
	p := api.Party{Name: e.name}
	for _, x := range e.parties {
		p.Addresses = append(p.Addresses, x.addr)
	}
	if len(e.parties) == 1 && e.parties[0].pod == nil && e.parties[0].name == e.parties[0].addr.String() {
		p.What = e.parties[0].bare
	}
	return p
}

// is reports whether both parties are the same pod.
func (p party) is(q party) bool {
	return p.pod != nil && q.pod != nil && p.pod.Namespace == q.pod.Namespace && p.pod.Name == q.pod.Name
}

// find looks up what the person named.
func (e *explainer) find(n End) (end, error) {
	switch {
	case n.Addr.IsValid():
		p, err := e.at(n.Addr)
		return end{name: p.name, parties: []party{p}}, err
	case n.Service:
		return e.findService(n)
	}
	return e.findPod(n)
}

func (e *explainer) findPod(n End) (end, error) {
	pod, ok := e.w.Pod(n.Namespace, n.Name)
	if !ok {
		var known []string
		for p := range e.w.Pods() {
			known = append(known, podName(p))
		}
		return end{}, missing("pod", n.Namespace+"/"+n.Name, known)
	}
	found := end{name: podName(pod)}
	addrs := pod.Addresses
	switch {
	case pod.Done:
		found.nowhere = found.name + " has ended: it has no network any more"
		return found, nil
	case pod.HostNetwork && len(addrs) == 0:
		addrs = e.nodeOf(pod)
	}
	if len(addrs) == 0 {
		found.nowhere = found.name + " has no address yet: there is no flow to judge"
	}
	for _, a := range addrs {
		found.parties = append(found.parties, partyOf(pod, a.Unmap()))
	}
	return found, nil
}

// partyOf is pod at its address a.
func partyOf(pod policy.Pod, a netip.Addr) party {
	if pod.HostNetwork {
		return party{name: podName(pod), addr: a, bare: podName(pod) + " is on its node's network"}
	}
	return party{name: podName(pod), addr: a, pod: &pod}
}

// at is who has address a.
func (e *explainer) at(a netip.Addr) (party, error) {
	pods := slices.DeleteFunc(slices.Clone(e.w.PodsAt(a)), func(p policy.Pod) bool { return p.HostNetwork })
	switch {
	case len(pods) > 1:
		var names []string
		for _, p := range pods {
			names = append(names, podName(p))
		}
		slices.Sort(names)
		return party{}, api.Errorf(api.CodeInvalid, "%s: is the address of %s at this moment, name the pod", a, strings.Join(names, " and "))
	case len(pods) == 1:
		return partyOf(pods[0], a), nil
	}
	p := party{name: a.String(), addr: a, services: e.w.ServicesAt(a)}
	switch node := e.nodeAt(a); {
	case len(p.services) > 0:
		p.bare = fmt.Sprintf("%s is the address of %s", a, serviceName(p.services[0]))
	case node != "":
		p.bare = fmt.Sprintf("%s is an address of node %s", a, node)
	default:
		p.bare = fmt.Sprintf("%s is no pod of this cluster", a)
	}
	return p, nil
}

func (e *explainer) findService(n End) (end, error) {
	s, ok := e.w.Service(n.Namespace, n.Name)
	if !ok {
		var known []string
		for s := range e.w.Services() {
			known = append(known, s.Namespace+"/"+s.Name)
		}
		return end{}, missing("service", n.Namespace+"/"+n.Name, known)
	}
	found := end{name: serviceName(s)}
	for _, a := range s.Addresses {
		found.parties = append(found.parties, party{
			name: found.name, addr: a.Unmap(), services: []policy.Service{s}, bare: found.name + " is a service"})
	}
	if len(s.Addresses) > 0 {
		return found, nil
	}
	// A headless Service: its name stands for the endpoints' addresses.
	for _, a := range e.headless(s) {
		p, err := e.at(a)
		if err != nil {
			return end{}, err
		}
		found.parties = append(found.parties, p)
	}
	if len(found.parties) == 0 {
		found.nowhere = found.name + " has neither an address nor a ready endpoint: there is nothing to connect to"
	}
	return found, nil
}

// headless is the addresses of all ready endpoints of s.
func (e *explainer) headless(s policy.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range s.Ports {
		for _, ofFamily := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			for _, b := range e.w.Backends(s, p, ofFamily) {
				if b.Ready {
					addrs = append(addrs, b.Addr.Addr())
				}
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// missing is the error for a name that nobody has.
func missing(kind, name string, known []string) error {
	if near := Near(name, known); len(near) > 0 {
		return api.Errorf(api.CodeNotFound, "%s %s: not found; did you mean %s?", kind, name, strings.Join(near, " or "))
	}
	return api.Errorf(api.CodeNotFound, "%s %s: not found", kind, name)
}

// nodeOf is the addresses of the node that pod is on.
func (x *Explainer) nodeOf(pod policy.Pod) []netip.Addr {
	node, _ := x.w.Node(pod.Node)
	addrs := slices.Clone(node.Addresses)
	if pod.Node == "" || pod.Node == x.opts.Node {
		addrs = append(addrs, x.opts.NodeAddresses...)
	}
	return addrs
}

// nodeAt is the name of the node that has address a, or empty.
func (e *explainer) nodeAt(a netip.Addr) string {
	if slices.Contains(e.opts.NodeAddresses, a) {
		return e.opts.Node
	}
	for n := range e.w.Nodes() {
		if slices.Contains(n.Addresses, a) {
			return n.Name
		}
	}
	return ""
}

func podName(p policy.Pod) string { return p.Namespace + "/" + p.Name }

func serviceName(s policy.Service) string { return "svc/" + s.Namespace + "/" + s.Name }
