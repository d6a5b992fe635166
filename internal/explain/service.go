package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A front is a port of a Service where a flow meets it.
type front struct {
	service  policy.Service
	backends []policy.Backend // in the order of their addresses
}

// fronts is what stands at address a and the question's port: Services with that
// virtual address, and those with that port on the pod's own node.
func (e *explainer) fronts(a netip.Addr, node []netip.Addr) []front {
	var list []front
	for s := range e.w.Services() {
		for _, p := range s.Ports {
			virtual := p.Port == e.port && slices.Contains(s.Addresses, a)
			if p.Proto != e.proto || !virtual && (p.NodePort != e.port || !slices.Contains(node, a)) {
				continue
			}
			bs := e.w.Backends(s, p, a)
			slices.SortFunc(bs, func(a, b policy.Backend) int { return a.Addr.Compare(b.Addr) })
			list = append(list, front{s, slices.Compact(bs)})
		}
	}
	slices.SortFunc(list, func(a, b front) int { return strings.Compare(serviceName(a.service), serviceName(b.service)) })
	return list
}

// ready is the endpoints that connections go to.
func (f front) ready() []policy.Backend {
	return slices.DeleteFunc(slices.Clone(f.backends), func(b policy.Backend) bool { return !b.Ready })
}

// live is the endpoints by which egress is judged: the ready ones or, while none
// is, all.
func (f front) live() []policy.Backend {
	if ready := f.ready(); len(ready) > 0 {
		return ready
	}
	return f.backends
}

// egressToService is the verdict at the virtual address, with the reason that
// lies behind it.
func (e *explainer) egressToService(s side, h hop, fs []front) api.Opinion {
	o := s.judge(h)
	if o.Verdict == Allow && o.Tier != ruleset.TierService {
		return o
	}
	// What the pod's rules say to the endpoints themselves.
	direct := s
	direct.chain, direct.enforced = withoutServices(s.chain), withoutServices(s.enforced)
	for _, f := range fs {
		behind := e.behind(direct, f)
		if o.Verdict == Allow {
			return allowedBehind(o, f, behind)
		}
		for _, b := range behind {
			if b.Verdict != Allow {
				o.Tier, o.Isolated, o.Policy, o.Rule, o.Steps = ruleset.TierService, b.Isolated, b.Policy, b.Rule, b.Steps
				o.Reason = fmt.Sprintf("%s leads to %s and %s is in the way: %s",
					serviceName(f.service), many(len(behind), "endpoint"), b.end, b.Reason)
				return o
			}
		}
		if len(behind) == 0 {
			o.Reason = fmt.Sprintf("%s has no endpoint for %s %d that a rule could accept; %s", serviceName(f.service), e.proto, e.port, isolatedBy(s))
			return o
		}
	}
	return o
}

// withoutServices is c as flows to endpoints themselves meet it.
func withoutServices(c ruleset.Chain) ruleset.Chain {
	c.Tiers = slices.DeleteFunc(slices.Clone(c.Tiers), func(t ruleset.Tier) bool { return t.Name == ruleset.TierService })
	return c
}

// An endpointOpinion is an opinion on the flow to one endpoint.
type endpointOpinion struct {
	end string // pod (address:port)
	api.Opinion
}

// behind judges the endpoints of f one by one.
func (e *explainer) behind(s side, f front) []endpointOpinion {
	var list []endpointOpinion
	for _, b := range f.live() {
		p, _ := e.endpoint(b)
		o := itself(p)
		if !p.is(party{pod: &s.pod}) {
			o = s.judge(hop{name: p.name, addr: p.addr, proto: e.proto, port: b.Addr.Port()})
		}
		list = append(list, endpointOpinion{endpointName(p, b), o})
	}
	return list
}

// endpoint is who stands at b. While an address changes hands that is an error
// and, for rules that judge by the address alone, nobody in particular.
func (e *explainer) endpoint(b policy.Backend) (party, error) {
	p, err := e.at(b.Addr.Addr())
	if err != nil {
		return party{name: b.Addr.Addr().String(), addr: b.Addr.Addr()}, err
	}
	return p, nil
}

func endpointName(p party, b policy.Backend) string {
	if p.pod == nil {
		return b.Addr.String()
	}
	return fmt.Sprintf("%s (%s)", p.name, b.Addr)
}

// allowedBehind is o with the rule that accepts the endpoints.
func allowedBehind(o api.Opinion, f front, behind []endpointOpinion) api.Opinion {
	if len(behind) == 0 {
		o.Reason = serviceName(f.service) + " has no endpoint, and a rule accepts everything"
		return o
	}
	o.Policy, o.Rule, o.Steps = behind[0].Policy, behind[0].Rule, behind[0].Steps
	o.Reason = fmt.Sprintf("every endpoint of %s is allowed; %s: %s", serviceName(f.service), behind[0].end, behind[0].Reason)
	return o
}

// ingressOfService is what the pods behind the Service say, each at its own port.
func (e *explainer) ingressOfService(from party, fs []front) api.Opinion {
	name := serviceName(fs[0].service)
	var all []endpointOpinion
	refusing := 0
	for _, f := range fs {
		for _, b := range f.ready() {
			all = append(all, e.arriveAt(from, b))
			if all[len(all)-1].Verdict != Allow {
				refusing++
			}
		}
	}
	if len(all) == 0 {
		return api.Opinion{Verdict: Deny, End: name,
			Reason: fmt.Sprintf("%s has no ready endpoint for %s %d: nobody answers", name, e.proto, e.port)}
	}
	worst := all[max(0, slices.IndexFunc(all, func(x endpointOpinion) bool { return x.Verdict != Allow }))]
	o := worst.Opinion
	o.End = name
	switch {
	case len(all) == 1:
		o.Reason = fmt.Sprintf("%s: %s", worst.end, o.Reason)
	case refusing > 0:
		o.Reason = fmt.Sprintf("%d of %s refuse; %s: %s", refusing, many(len(all), "endpoint"), worst.end, o.Reason)
	default:
		o.Reason = fmt.Sprintf("all %s accept; %s: %s", many(len(all), "endpoint"), worst.end, o.Reason)
	}
	return o
}

// arriveAt is what the endpoint b says to the flow.
func (e *explainer) arriveAt(from party, b policy.Backend) endpointOpinion {
	to, err := e.endpoint(b)
	o := unwalled(to)
	switch {
	case err != nil:
		o.Verdict, o.Reason = Deny, err.Error()
	case from.is(to):
		o = itself(to)
	case to.pod != nil:
		o = e.arrive(from, to, b.Addr.Port())
	}
	return endpointOpinion{endpointName(to, b), o}
}

// unserved is the opinion of a Service about a port that it does not have.
func unserved(s policy.Service, proto ruleset.Proto, port uint16) api.Opinion {
	var has []string
	for _, p := range s.Ports {
		has = append(has, fmt.Sprintf("%s %d", p.Proto, p.Port))
	}
	if len(has) == 0 {
		has = []string{"no port"}
	}
	return api.Opinion{Verdict: Deny, End: serviceName(s),
		Reason: fmt.Sprintf("%s does not serve %s %d; it serves %s", serviceName(s), proto, port, strings.Join(has, ", "))}
}

// isolatedBy names the policies that isolate the pod in this direction.
func isolatedBy(s side) string {
	var names []string
	for _, p := range s.selecting {
		if p.Layer == policy.Standard && s.speaks(p) {
			names = append(names, p.Policy.String())
		}
	}
	return "isolated by " + strings.Join(names, ", ")
}

func many(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
