package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// NamespaceNameLabel is the label that every namespace has, with its own name.
const NamespaceNameLabel = "kubernetes.io/metadata.name"

// A World is a Snapshot that has been indexed. It remembers what it has worked
// out, so that compiling for a second pod costs less than for the first; even
// its lookups must not be called by two goroutines at once.
type World struct {
	namespaces map[string]*namespace
	nodes      map[string]*Node
	services   map[Name]*Service
	servicesAt map[netip.Addr][]Service
	slices     map[Name][]*EndpointSlice // by the Service they serve
	podsAt     map[netip.Addr][]Pod

	// policies are those that look into one namespace, by its name; wide are
	// those that select namespaces.
	policies map[string][]*Policy
	wide     []*Policy

	// What has been worked out so far.
	sets      map[string][]*Pod          // by the content of a PodSet
	peers     map[string]ruleset.Peers   // by the content of a list of Peers
	matches   map[*Rule][]ruleset.Match  // where they don't depend on the target
	named     map[string][]ruleset.Match // by the content of peers and a named port
	egress    map[string]*egress         // by what selects the pod, and its node
	opened    bool                       // the following are filled
	doors     []door                     // of all Services
	doorsTo   map[netip.Addr][]int       // by what is behind them
	nodeAddrs []netip.Addr               // of all nodes
}

// A namespace is one with what it holds.
type namespace struct {
	Namespace
	pods    map[string]*Pod
	peers   []*Pod           // those that selectors pick
	byLabel map[label][]*Pod // peers; nil until asked for
}

type label struct{ key, value string }

// New indexes s, which must not change as long as the World is used.
func New(s Snapshot) *World {
	w := &World{
		namespaces: make(map[string]*namespace),
		nodes:      make(map[string]*Node),
		services:   make(map[Name]*Service),
		servicesAt: make(map[netip.Addr][]Service),
		slices:     make(map[Name][]*EndpointSlice),
		podsAt:     make(map[netip.Addr][]Pod, len(s.Pods)),
		policies:   make(map[string][]*Policy),
		sets:       make(map[string][]*Pod),
		peers:      make(map[string]ruleset.Peers),
		matches:    make(map[*Rule][]ruleset.Match),
		named:      make(map[string][]ruleset.Match),
		egress:     make(map[string]*egress),
	}
	for _, n := range s.Namespaces {
		w.addNamespace(n)
	}
	for i := range s.Nodes {
		w.nodes[s.Nodes[i].Name] = &s.Nodes[i]
	}
	for i := range s.Pods {
		w.addPod(&s.Pods[i])
	}
	for i := range s.Services {
		w.addService(&s.Services[i])
	}
	for i := range s.Slices {
		of := Name{s.Slices[i].Namespace, s.Slices[i].Service}
		w.slices[of] = append(w.slices[of], &s.Slices[i])
	}
	for i := range s.Policies {
		w.addPolicy(&s.Policies[i])
	}
	return w
}

func (w *World) addNamespace(n Namespace) *namespace {
	if n.Labels[NamespaceNameLabel] != n.Name {
		labels := make(Labels, len(n.Labels)+1)
		maps.Copy(labels, n.Labels)
		labels[NamespaceNameLabel] = n.Name
		n.Labels = labels
	}
	ns := &namespace{Namespace: n, pods: make(map[string]*Pod)}
	w.namespaces[n.Name] = ns
	return ns
}

// namespace returns the namespace of that name, which then exists.
func (w *World) namespace(name string) *namespace {
	if ns, ok := w.namespaces[name]; ok {
		return ns
	}
	return w.addNamespace(Namespace{Name: name})
}

func (w *World) addPod(p *Pod) {
	ns := w.namespace(p.Namespace)
	ns.pods[p.Name] = p
	if p.Done {
		return // its addresses may be another pod's
	}
	for _, a := range p.Addresses {
		w.podsAt[plain(a)] = append(w.podsAt[plain(a)], *p)
	}
	if !p.HostNetwork {
		ns.peers = append(ns.peers, p)
	}
}

func (w *World) addService(s *Service) {
	w.namespace(s.Namespace)
	w.services[Name{s.Namespace, s.Name}] = s
	for _, a := range s.Addresses {
		w.servicesAt[plain(a)] = append(w.servicesAt[plain(a)], *s)
	}
}

func (w *World) addPolicy(p *Policy) {
	if ns := p.Subject.Namespace; ns != "" {
		w.namespace(ns)
		w.policies[ns] = append(w.policies[ns], p)
	} else {
		w.wide = append(w.wide, p)
	}
}

// plain is a without what does not belong to an address on the wire.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// single is the prefix that holds a alone.
func single(a netip.Addr) netip.Prefix {
	a = plain(a)
	return netip.PrefixFrom(a, a.BitLen())
}

// pods returns the pods of s that may be peers.
func (w *World) pods(s PodSet) []*Pod {
	key := string(s.appendKey(nil))
	if pods, ok := w.sets[key]; ok {
		return pods
	}
	var pods []*Pod
	if s.Namespace != "" {
		if ns, ok := w.namespaces[s.Namespace]; ok {
			pods = ns.pick(s.Pods)
		}
	} else {
		for _, ns := range w.namespaces {
			if s.inside(ns) {
				pods = append(pods, ns.pick(s.Pods)...)
			}
		}
	}
	w.sets[key] = pods
	return pods
}

func (n *namespace) pick(s Selector) []*Pod {
	if s.All {
		return n.peers
	}
	var pods []*Pod
	for _, p := range n.candidates(s) {
		if s.Picks(p.Labels) {
			pods = append(pods, p)
		}
	}
	return pods
}

// candidates returns pods among which are all that s picks: those that meet its
// narrowest In, if it has one.
func (n *namespace) candidates(s Selector) []*Pod {
	n.index()
	best, least := -1, len(n.peers)
	for i, need := range s.Needs {
		if need.Op != In {
			continue
		}
		count := 0
		for _, v := range need.Values {
			count += len(n.byLabel[label{need.Key, v}])
		}
		if count < least {
			best, least = i, count
		}
	}
	if best < 0 {
		return n.peers
	}
	pods := make([]*Pod, 0, least)
	for _, v := range s.Needs[best].Values {
		pods = append(pods, n.byLabel[label{s.Needs[best].Key, v}]...)
	}
	return pods
}

func (n *namespace) index() {
	if n.byLabel != nil {
		return
	}
	n.byLabel = make(map[label][]*Pod)
	for _, p := range n.peers {
		for k, v := range p.Labels {
			n.byLabel[label{k, v}] = append(n.byLabel[label{k, v}], p)
		}
	}
}

// layers stand in the order in which a flow meets them.
var layers = []Layer{Admin, Standard, Baseline}

// comparePolicies is the order in which policies are tried. Among NetworkPolicies
// it carries no meaning, only stability.
func comparePolicies(a, b *Policy) int {
	if a.Layer != b.Layer {
		return slices.Index(layers, a.Layer) - slices.Index(layers, b.Layer)
	}
	if a.Layer != Standard && a.Priority != b.Priority {
		return cmp.Compare(a.Priority, b.Priority)
	}
	return cmp.Or(cmp.Compare(a.Ref.Kind, b.Ref.Kind),
		cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name))
}

// selecting returns the policies that select p, in the order they are tried.
func (w *World) selecting(p *Pod) []*Policy {
	if p.HostNetwork {
		return nil
	}
	ns := w.namespace(p.Namespace)
	var selecting []*Policy
	for _, list := range [][]*Policy{w.policies[p.Namespace], w.wide} {
		for _, q := range list {
			if q.Subject.holds(ns, p.Labels) {
				selecting = append(selecting, q)
			}
		}
	}
	slices.SortFunc(selecting, comparePolicies)
	return selecting
}
