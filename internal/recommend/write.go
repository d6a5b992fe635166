package recommend

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/rehearse"
	"github.com/podwall/podwall/internal/ruleset"
)

// A writer collects what is to be recommended.
type writer struct {
	e        *evidence.Evidence
	stage    *evidence.Stage
	pods     []policy.Pod
	subjects []*subject
	of       map[string]*subject // by namespace and make
	byRef    map[ruleset.Ref]*subject
	left     map[flowKey]bool
	out      Recommendation
}

// A subject is a workload that gets a policy.
type subject struct {
	ref     ruleset.Ref
	set     policy.PodSet
	names   []string
	ingress []*line
	egress  []*line
}

// A line is one rule: a peer and a port.
type line struct {
	key   string
	peer  policy.Peer
	ports ruleset.Ports
	said  []string
}

func newWriter(e *evidence.Evidence) *writer {
	w := &writer{e: e, stage: e.Stage(policy.Change{}), of: map[string]*subject{}, byRef: map[ruleset.Ref]*subject{}, left: map[flowKey]bool{}}
	w.out = Recommendation{Node: e.Node, Policies: []Policy{}, Left: []string{}, Notes: []string{}, left: w.left}
	for p := range w.stage.World.Pods() {
		if !p.HostNetwork && !p.Done {
			w.pods = append(w.pods, p)
		}
	}
	if n := e.Flows.Hidden + e.Flows.Lost + e.Flows.Forgotten; n > 0 {
		w.note("%d events or flows are missing from the evidence: beyond a limit, lost, or forgotten", n)
	}
	return w
}

func (w *writer) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(w.out.Notes, text) {
		w.out.Notes = append(w.out.Notes, text)
	}
}

// leave says that an accepted flow is not allowed, and why.
func (w *writer) leave(f *api.Flow, why string) {
	if !w.left[keyOf(f)] {
		w.left[keyOf(f)] = true
		w.out.Left = append(w.out.Left, fmt.Sprintf("%s to %s %s %d, %s: %s", rehearse.Name(&f.From), rehearse.Name(&f.To), f.Protocol, f.To.Port, f.Direction, why))
	}
}

// workload is the set of the pods that are like p, if labels tell them apart.
func (w *writer) workload(p policy.Pod) (policy.PodSet, bool) {
	own := evidence.Shared(p.Labels)
	var others []policy.Labels
	for _, q := range w.pods {
		if q.Namespace == p.Namespace && evidence.Make(q.Labels) != evidence.Make(p.Labels) {
			others = append(others, evidence.Shared(q.Labels))
		}
	}
	s, ok := exactly(own, others)
	return policy.PodSet{Namespace: p.Namespace, Pods: s}, ok
}

// subject is the workload of a pod, which gets a policy; nil if no selector is
// about it alone.
func (w *writer) subject(name policy.Name) *subject {
	p, ok := w.stage.World.Pod(name.Namespace, name.Name)
	if !ok {
		return nil
	}
	key := p.Namespace + " " + evidence.Make(p.Labels)
	id := p.Namespace + "/" + p.Name
	if s := w.of[key]; s != nil {
		if !slices.Contains(s.names, id) {
			s.names = append(s.names, id)
		}
		return s
	}
	set, ok := w.workload(p)
	if !ok {
		w.note("%s: no labels tell its workload from others, so it gets no policy", id)
		return nil
	}
	s := &subject{set: set, names: []string{id}}
	for n := 0; s.ref == (ruleset.Ref{}); n++ {
		ref := ruleset.Ref{Kind: "NetworkPolicy", Namespace: p.Namespace, Name: "observed-" + evidence.Workload(p.Name, p.Labels)}
		if n > 0 {
			ref.Name += fmt.Sprint("-", n+1)
		}
		if w.byRef[ref] == nil {
			s.ref = ref
		}
	}
	w.of[key], w.byRef[s.ref], w.subjects = s, s, append(w.subjects, s)
	return s
}

// allow adds what lets f through.
func (w *writer) allow(f *api.Flow) {
	proto, ok := evidence.Protocol(f.Protocol)
	local, far := evidence.Local(f), evidence.Far(f)
	switch {
	case !ok || !proto.HasPorts():
		w.leave(f, "a NetworkPolicy can't name this protocol")
		return
	case w.ownNode(f):
		return // it always passes
	}
	s := w.subject(policy.Name{Namespace: local.Namespace, Name: local.Pod})
	if s == nil {
		w.leave(f, "its pod gets no policy")
		return
	}
	for _, t := range w.targets(f, far, proto) {
		s.add(f, t)
	}
}

// ownNode reports whether f is one with the pod's own node, which needs no rule.
func (w *writer) ownNode(f *api.Flow) bool {
	far := evidence.Far(f)
	own := far.Node != "" && far.Node == w.e.Node || slices.Contains(w.e.NodeAddresses, far.Address)
	return own && (f.Direction == ruleset.Ingress || !w.e.NodeEgressByPolicy)
}

// targets are the far ends of f as a policy names them: the pods behind a Service
// for the Service. None leaves f out.
func (w *writer) targets(f *api.Flow, far *api.End, proto ruleset.Proto) []*line {
	port := ruleset.Ports{Proto: proto, First: f.To.Port, Last: f.To.Port}
	switch {
	case far.Pod != "":
		p, _ := w.stage.World.Pod(far.Namespace, far.Pod)
		return w.pod(f, p, port)
	case far.Service == "":
		return []*line{{key: far.Address.String(), peer: blockOf(far.Address), ports: port}}
	}
	svc, _ := w.stage.World.Service(far.Namespace, far.Service)
	var lines []*line
	for _, sp := range svc.Ports {
		if sp.Proto != proto || sp.Port != f.To.Port {
			continue
		}
		for _, b := range w.stage.World.Backends(svc, sp, far.Address) {
			lines = append(lines, w.backend(f, b.Addr, proto)...)
		}
	}
	if len(lines) == 0 {
		w.leave(f, "the Service has no endpoint now that a rule could name")
	}
	return lines
}

func (w *writer) backend(f *api.Flow, at netip.AddrPort, proto ruleset.Proto) []*line {
	port := ruleset.Ports{Proto: proto, First: at.Port(), Last: at.Port()}
	for _, p := range w.stage.World.PodsAt(at.Addr()) {
		if !p.HostNetwork {
			return w.pod(f, p, port)
		}
	}
	return []*line{{key: at.Addr().String(), peer: blockOf(at.Addr()), ports: port}}
}

func (w *writer) pod(f *api.Flow, p policy.Pod, port ruleset.Ports) []*line {
	set, ok := w.workload(p)
	if !ok {
		w.leave(f, "no labels tell "+p.Namespace+"/"+p.Name+" from pods of other workloads")
		return nil
	}
	return []*line{{key: p.Namespace + " " + evidence.Make(p.Labels), peer: policy.Peer{Pods: set}, ports: port}}
}

// add puts f's line among s's, with the evidence.
func (s *subject) add(f *api.Flow, l *line) {
	list := &s.ingress
	if f.Direction == ruleset.Egress {
		list = &s.egress
	}
	said := fmt.Sprintf("%s to %s %s %d: %d seen, %s to %s", rehearse.Name(&f.From), rehearse.Name(&f.To), f.Protocol, f.To.Port, f.Count,
		f.First.UTC().Format("2006-01-02 15:04:05"), f.Last.UTC().Format("15:04:05"))
	for _, have := range *list {
		if have.key == l.key && have.ports == l.ports {
			if !slices.Contains(have.said, said) {
				have.said = append(have.said, said)
			}
			return
		}
	}
	l.said = []string{said}
	*list = append(*list, l)
}

// drop takes back a rule.
func (s *subject) drop(d ruleset.Direction, rule int) bool {
	list := &s.ingress
	if d == ruleset.Egress {
		list = &s.egress
	}
	if rule < 0 || rule >= len(*list) {
		return false
	}
	*list = slices.Delete(*list, rule, rule+1)
	return true
}

// side is the rules of lines.
func side(lines []*line) (policy.Side, [][]string) {
	out, said := policy.Side{Applies: true}, [][]string{}
	for _, l := range lines {
		out.Rules = append(out.Rules, policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{l.peer}, Ports: []policy.Port{{Ports: l.ports}}})
		said = append(said, l.said)
	}
	return out, said
}

// recommendation is what has been collected so far.
func (w *writer) recommendation() Recommendation {
	r := w.out
	r.Policies = []Policy{}
	slices.SortFunc(w.subjects, func(a, b *subject) int { return compareRefs(a.ref, b.ref) })
	for _, s := range w.subjects {
		p := Policy{Policy: policy.Policy{Ref: s.ref, Subject: s.set}, About: slices.Sorted(slices.Values(s.names))}
		p.Policy.Ingress, p.Evidence = side(s.ingress)
		p.Policy.Egress, p.Egress = side(s.egress)
		r.Policies = append(r.Policies, p)
	}
	return r
}
