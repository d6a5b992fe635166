package policy

import (
	"net/netip"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Snapshot is the part of a cluster's state that firewalls depend on. The
// order of its slices carries no meaning. Names are unique within a kind and
// namespace; of two objects with one name either may count.
type Snapshot struct {
	Namespaces []Namespace
	Pods       []Pod
	Nodes      []Node
	Services   []Service
	Slices     []EndpointSlice
	Policies   []Policy
}

// Labels are an object's labels.
type Labels map[string]string

// A Namespace is a Kubernetes namespace. Namespaces that other objects name but
// the Snapshot does not hold exist. Every namespace has the label
// kubernetes.io/metadata.name, whether or not Labels holds it.
type Namespace struct {
	Name        string
	Labels      Labels
	Terminating bool
	// Audit and Observe hold for the pods that say nothing themselves.
	Audit, Observe Wish
}

// A Pod is a Kubernetes pod.
type Pod struct {
	Namespace, Name string
	UID             string // may be empty
	Labels          Labels
	Node            string
	Addresses       []netip.Addr
	Ports           []NamedPort // of all its containers
	// HostNetwork pods have the node's addresses: no selector picks them.
	HostNetwork bool
	// Done pods (phase Succeeded or Failed) run no more; their addresses may be
	// another pod's by now, so no selector picks them. A pod that is only
	// terminating is not done.
	Done bool
	// NetAdmin says whether a container may change the network namespace.
	NetAdmin Grant
	// RawSockets says that the pod asks to send whole frames, by its annotation.
	// Whether it may ask is not the pod's to say.
	RawSockets bool
	// Audit asks that what its policies would drop is only logged, Observe that its
	// accepted flows are logged.
	Audit, Observe Wish
	// RuntimeClass is the name of the runtime class that runs the pod; empty is
	// the node's own.
	RuntimeClass string
}

// A Grant says whether a pod's specification grants a capability.
type Grant uint8

const (
	GrantUnknown Grant = iota // nobody has seen the specification; the zero Grant
	Granted
	NotGranted
)

// A Wish is what an annotation asks for. Whether it may is not its object's to
// say.
type Wish uint8

const (
	NoWish Wish = iota // nobody said anything; the zero Wish
	Wanted
	Unwanted
)

// Or is w, or other where w says nothing.
func (w Wish) Or(other Wish) Wish {
	if w == NoWish {
		return other
	}
	return w
}

// A NamedPort is a container's port that has a name.
type NamedPort struct {
	Name  string
	Proto ruleset.Proto
	Port  uint16
}

// A Node is a Kubernetes node.
type Node struct {
	Name      string
	Labels    Labels
	Addresses []netip.Addr
}

// A Service is a Kubernetes Service as pods meet it: addresses that stand for
// the endpoints in its EndpointSlices.
type Service struct {
	Namespace, Name string
	// Addresses are the virtual ones: cluster IPs, external IPs, load balancer
	// addresses. A headless or ExternalName Service has none.
	Addresses []netip.Addr
	Ports     []ServicePort
}

// A ServicePort is one port of a Service. The EndpointSlices' port of the same
// Name says where it leads.
type ServicePort struct {
	Name     string
	Proto    ruleset.Proto
	Port     uint16
	NodePort uint16 // also served on the node's addresses; 0 is none
}

// An EndpointSlice lists endpoints of the Service it names.
type EndpointSlice struct {
	Namespace, Name string
	Service         string
	Ports           []EndpointPort
	Endpoints       []Endpoint
}

// An EndpointPort says at which port the endpoints of a slice serve the
// Service's port of that name.
type EndpointPort struct {
	Name  string
	Proto ruleset.Proto
	Port  uint16
}

// An Endpoint is one backend.
type Endpoint struct {
	Addresses []netip.Addr
	// Ready says that kube-proxy may send connections there: the conditions
	// ready, or serving while terminating.
	Ready bool
}

// A Layer is where a policy stands in the order of tiers.
type Layer uint8

const (
	Standard Layer = iota // NetworkPolicy: between the two others, isolating what it selects
	Admin                 // ClusterNetworkPolicy of tier Admin
	Baseline              // ClusterNetworkPolicy of tier Baseline
)

// A Policy is a NetworkPolicy, or later a ClusterNetworkPolicy, in this
// package's terms. The zero Policy selects nobody.
type Policy struct {
	Ref      ruleset.Ref
	Layer    Layer
	Priority int // within Admin and Baseline: lower first; unused in Standard
	Subject  PodSet

	// Ingress and Egress say what the policy does to the subject's flows in each
	// direction.
	Ingress, Egress Side

	// Broken says, for people, why the policy can't be honoured. The parser has
	// then already made it isolate its subject and admit nobody.
	Broken string
}

// A Side is a policy's effect in one direction.
type Side struct {
	// Applies says that the policy speaks about this direction at all. A
	// Standard policy that applies isolates its subject.
	Applies bool
	Rules   []Rule
}

// A Rule does Action with the flows between the subject and any of Peers to any
// of Ports. No peers means no flow; a missing from clause is {Any: true}. No
// ports means no flow; a missing ports clause is ruleset.AnyPort.
type Rule struct {
	Action ruleset.Action
	Peers  []Peer
	Ports  []Port
}

// A Peer is one of three: everyone, the pods of a PodSet, or a block of
// addresses. The zero Peer is nobody.
type Peer struct {
	Any   bool
	Pods  PodSet
	Block []netip.Prefix // what remains of a CIDR without its exceptions
}

// A PodSet is the pods that Pods selects in the namespaces that are named
// Namespace or, if that is empty, selected by Namespaces. The zero PodSet is
// empty.
type PodSet struct {
	Namespace  string
	Namespaces Selector
	Pods       Selector
}

// A Port is a range of ports or, with a Name, whatever number the pod at the
// flow's destination gives that name. The zero Port matches nothing.
type Port struct {
	Name  string
	Ports ruleset.Ports // with a Name only Proto counts
}

// A Selector picks objects by their labels: everything if All is set, else what
// meets each of Needs. The zero Selector picks nothing.
type Selector struct {
	All   bool
	Needs []Need
}

// A Need is one requirement on a label.
type Need struct {
	Key    string
	Op     Op
	Values []string // for In and NotIn
}

// An Op relates a label to values.
type Op uint8

const (
	Never Op = iota // the zero Op holds for nothing
	In
	NotIn // holds also where the label is missing
	Exists
	DoesNotExist
)

// A Target is the attachment to compile a rule set for.
type Target struct {
	Pod       Pod          // Addresses are the pod's, on all its attachments
	Addresses []netip.Addr // this attachment's own
	// Node holds the addresses of the pod's own node, which always reaches the
	// pod and, unless NodeEgressByPolicy is set, is always reached from it.
	Node               []netip.Addr
	NodeEgressByPolicy bool
	Adopted            ruleset.Adoption
	// RawSockets and Owned become the rule set's.
	RawSockets, Owned bool
}
