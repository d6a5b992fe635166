package evidence

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Stage is the cluster of some Evidence, perhaps changed, on which its flows
// are judged again. It must not be used by two goroutines at once.
type Stage struct {
	*explain.Explainer
	World  *policy.World
	Ghosts []policy.Name // pods that were seen and are gone since
}

// Stage returns the cluster of e after change.
func (e *Evidence) Stage(change policy.Change) *Stage {
	s := &Stage{World: policy.New(e.World)}
	s.World.Apply(change)
	s.raise(e.Flows.Flows)
	s.Explainer = explain.New(s.World, explain.Options{
		Node: e.Node, NodeAddresses: e.NodeAddresses, NodeEgressByPolicy: e.NodeEgressByPolicy,
		Audited: func(p policy.Pod) bool {
			ns, _ := s.World.Namespace(p.Namespace)
			return e.Audits && p.Audit.Or(ns.Audit) == policy.Wanted
		},
	})
	return s
}

// Addresses that are made up come from blocks that no network uses: one that IPv4
// has reserved for ever, and one of IPv6 in which everything is discarded.
var (
	madeUp4 = netip.MustParseAddr("240.0.0.0")
	madeUp6 = netip.MustParseAddr("100::")
)

// raise gives the World the pods of flows that it does not have. Where another has
// the address by now, theirs is made up.
func (s *Stage) raise(flows []api.Flow) {
	ghosts := map[policy.Name]*policy.Pod{}
	taken := map[netip.Addr]policy.Name{}
	var set policy.Change
	for i := range flows {
		for _, end := range []*api.End{&flows[i].From, &flows[i].To} {
			name := policy.Name{Namespace: end.Namespace, Name: end.Pod}
			if end.Pod == "" {
				continue
			}
			if ghosts[name] == nil {
				known, ok := s.World.Pod(name.Namespace, name.Name)
				if ok && !known.Done && len(known.Addresses) > 0 {
					continue
				}
				p := ghost(end)
				if ok && !known.Done {
					p = known // and where it was, it may still be
				}
				ghosts[name] = &p
				s.Ghosts = append(s.Ghosts, name)
				if _, ok := s.World.Namespace(name.Namespace); !ok {
					set.Set.Namespaces = append(set.Set.Namespaces, policy.Namespace{Name: name.Namespace, Labels: end.NamespaceLabels})
				}
			}
			p, a := ghosts[name], plain(end.Address)
			if slices.ContainsFunc(p.Addresses, func(b netip.Addr) bool { return b.BitLen() == a.BitLen() }) || !a.IsValid() {
				continue // one of a family is enough
			}
			if other, ok := taken[a]; ok && other != name || len(s.World.PodsAt(a)) > 0 {
				a = nth(a.BitLen(), uint32(len(taken)+1))
			}
			taken[a] = name
			p.Addresses = append(p.Addresses, a)
		}
	}
	for _, name := range s.Ghosts {
		set.Set.Pods = append(set.Set.Pods, *ghosts[name])
	}
	s.World.Apply(set)
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// nth is the n-th address that is made up, of a family.
func nth(bits int, n uint32) netip.Addr {
	base := madeUp4
	if bits == 128 {
		base = madeUp6
	}
	b := base.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+n)
	a, _ := netip.AddrFromSlice(b) // of as many bytes as it was
	return a
}

// Judge says what the end that gave the flow's verdict says to it on this stage.
// A flow that can't exist there is an error.
func (s *Stage) Judge(f *api.Flow) (api.Opinion, error) {
	proto, ok := Protocol(f.Protocol)
	if !ok {
		return api.Opinion{}, fmt.Errorf("protocol %s: no policy is about it", f.Protocol)
	}
	from, err := s.address(&f.From, &f.To)
	if err != nil {
		return api.Opinion{}, err
	}
	to, err := s.address(&f.To, &f.From)
	if err != nil {
		return api.Opinion{}, err
	}
	ex, err := s.Flow(explain.End{Addr: from}, explain.End{Addr: to}, proto, f.To.Port)
	if err != nil {
		return api.Opinion{}, err
	}
	if f.Direction == ruleset.Ingress {
		return ex.Ingress, nil
	}
	return ex.Egress, nil
}

// address is where e is now, of the family in which both ends were seen.
func (s *Stage) address(e, other *api.End) (netip.Addr, error) {
	at := plain(e.Address)
	if !at.IsValid() {
		return netip.Addr{}, fmt.Errorf("%s: no address", e.Name())
	}
	var have []netip.Addr
	switch {
	case e.Pod != "":
		p, _ := s.World.Pod(e.Namespace, e.Pod)
		have = p.Addresses
	case e.Service != "":
		if svc, ok := s.World.Service(e.Namespace, e.Service); ok {
			have = svc.Addresses
		}
	}
	if len(have) == 0 || slices.Contains(have, at) {
		return at, nil
	}
	for _, a := range have {
		if a = plain(a); a.BitLen() == at.BitLen() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: has no address like %s any more", e.Name(), at)
}

// Protocol is the number behind an event's name of a protocol, if a policy can be
// about it: what comes in frames of its own never meets one.
func Protocol(name string) (ruleset.Proto, bool) {
	switch name {
	case "ICMP":
		return 1, true
	case "ICMPv6":
		return 58, true
	}
	var p ruleset.Proto
	if err := p.UnmarshalText([]byte(name)); err == nil && p.HasPorts() {
		return p, true
	}
	var n uint8
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && fmt.Sprint(n) == name && ruleset.Proto(n) != ruleset.AnyProto && n != 0 {
		return ruleset.Proto(n), true
	}
	return 0, false
}
