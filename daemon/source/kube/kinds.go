package kube

import (
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/kubepolicy"
	"github.com/podwall/podwall/internal/policy"
)

// newScheme knows the kinds that are read, and events.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	groups := runtime.NewSchemeBuilder(corev1.AddToScheme, discoveryv1.AddToScheme, netv1.AddToScheme, eventsv1.AddToScheme)
	if err := groups.AddToScheme(s); err != nil {
		panic(err) // the packages don't fit each other: no test would pass
	}
	return s
}

// A kind is one stream of objects.
type kind struct {
	name     string // Pod
	resource string // pods
	group    schema.GroupVersion
	example  runtime.Object
	fields   string // field selector
	codec
	whole bool // the mirror keeps whole items, of which there are few
}

// A codec turns objects of a kind into items, and stored values back.
type codec struct {
	read   func(runtime.Object) (*item, error)
	decode func([]byte) (any, error)
}

// named is what RBAC calls the kind: networkpolicies.networking.k8s.io.
func (k kind) named() string {
	return schema.GroupResource{Group: k.group.Group, Resource: k.resource}.String()
}

const (
	podKind       = "Pod"
	policyKind    = "NetworkPolicy"
	namespaceKind = "Namespace"
)

// kinds are the streams that a node reads. Of pods with an address of their own it
// reads all that run; of those in the node's network only its own, which nobody's
// rules depend on but which people ask about.
func kinds(node string) []kind {
	core, network, discovery := corev1.SchemeGroupVersion, netv1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion
	running := ",status.phase!=Succeeded,status.phase!=Failed"
	pods := kind{name: podKind, resource: "pods", group: core, example: &corev1.Pod{}, codec: codecOf(podKind, kubepolicy.Pod)}
	regular, host := pods, pods
	regular.fields = "spec.hostNetwork=false" + running
	host.fields, host.whole = "spec.hostNetwork=true,spec.nodeName="+node+running, true
	return []kind{
		{name: namespaceKind, resource: "namespaces", group: core, example: &corev1.Namespace{},
			codec: codecOf(namespaceKind, kubepolicy.Namespace)},
		{name: policyKind, resource: "networkpolicies", group: network, example: &netv1.NetworkPolicy{},
			codec: codecOf(policyKind, kubepolicy.Policy)},
		regular,
		host,
		{name: "Node", resource: "nodes", group: core, example: &corev1.Node{}, codec: codecOf("Node", kubepolicy.Node)},
		{name: "Service", resource: "services", group: core, example: &corev1.Service{}, codec: codecOf("Service", kubepolicy.Service)},
		{name: "EndpointSlice", resource: "endpointslices", group: discovery, example: &discoveryv1.EndpointSlice{},
			codec: codecOf("EndpointSlice", kubepolicy.EndpointSlice)},
	}
}

// An item is an object as far as policy needs it.
type item struct {
	policy.Name
	uid      string
	version  uint64 // the object's resourceVersion
	value    any    // policy.Pod and so on
	content  []byte // uid and value, as Files has them
	sum      uint64 // of content
	problems []api.Problem
}

// GetObjectMeta returns what a Reflector's own store needs.
func (i *item) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: i.Namespace, Name: i.Name.Name, ResourceVersion: strconv.FormatUint(i.version, 10)}
}

// GetObjectKind and DeepCopyObject are runtime.Object's, so that a list can hold
// items. Items don't change.
func (i *item) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject returns the item itself.
func (i *item) DeepCopyObject() runtime.Object { return i }

// codecOf makes a kind's codec of its parser, which manifests go through as well.
func codecOf[In any, Out any](name string, parse func(*In) (Out, error)) codec {
	read := func(o runtime.Object) (*item, error) {
		in, ok := any(o).(*In)
		if !ok {
			return nil, fmt.Errorf("read %s: a %T came instead", name, o)
		}
		m, ok := o.(metav1.Object)
		if !ok || m.GetName() == "" {
			return nil, fmt.Errorf("read %s: one without a name", name)
		}
		out, err := parse(in)
		i := &item{
			Name: policy.Name{Namespace: m.GetNamespace(), Name: m.GetName()},
			uid:  string(m.GetUID()), version: versionOf(m.GetResourceVersion()),
		}
		i.problems = source.Problems(name+" "+i.String(), err)
		return i, i.fill(out)
	}
	decode := func(b []byte) (any, error) {
		var out Out
		err := json.Unmarshal(b, &out)
		return out, err
	}
	return codec{read, decode}
}

// fill gives i its value, and what follows from that.
func (i *item) fill(value any) error {
	if pod, ok := value.(policy.Pod); ok {
		i.uid = pod.UID // of a static pod the one that its node knows
	}
	b, err := json.Marshal(stored[any]{i.uid, value})
	if err != nil {
		return fmt.Errorf("store %s: %w", i, err)
	}
	i.value, i.content, i.sum = value, b, sumOf(b)
	return nil
}

// A stub stands for an item that the mirror has taken in already.
type stub struct{ policy.Name }

// GetObjectMeta returns what a Reflector's own store needs.
func (s stub) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name.Name}
}

// String is namespace/name, or the name alone.
func (i *item) String() string {
	if i.Namespace == "" {
		return i.Name.Name
	}
	return i.Namespace + "/" + i.Name.Name
}

// versionOf reads a resourceVersion, by which an object's states can be put in
// order. One that is no number is older than any other.
func versionOf(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return v
}
