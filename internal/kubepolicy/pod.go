package kubepolicy

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podwall/podwall/internal/policy"
)

// RawSocketsAnnotation is the annotation by which a pod asks to send whole
// frames. Its only value is "allow".
const RawSocketsAnnotation = "podwall.io/raw-sockets"

// The annotations by which a pod, or a namespace for its pods, asks that what its
// policies would drop passes and is logged, and that accepted flows are logged.
// Their values are "true" and "false"; a pod's wins over its namespace's.
const (
	AuditAnnotation   = "podwall.io/audit"
	ObserveAnnotation = "podwall.io/observe"
)

// Pod parses a Pod. Its named ports are those of the containers that run beside
// each other: the ordinary ones and the init containers that are restarted.
func Pod(p *corev1.Pod) (policy.Pod, error) {
	r := newReader("Pod", &p.ObjectMeta, true)
	out := policy.Pod{
		Namespace:   namespaceOf(&p.ObjectMeta),
		Name:        p.Name,
		UID:         uid(&p.ObjectMeta),
		Labels:      maps.Clone(p.Labels),
		Node:        p.Spec.NodeName,
		HostNetwork: p.Spec.HostNetwork,
		Done:        p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		NetAdmin:    netAdmin(&p.Spec),
		RawSockets:  r.allowed("metadata.annotations["+RawSocketsAnnotation+"]", p.Annotations, RawSocketsAnnotation),
		Audit:       r.wish(p.Annotations, AuditAnnotation),
		Observe:     r.wish(p.Annotations, ObserveAnnotation),
	}
	if c := p.Spec.RuntimeClassName; c != nil {
		out.RuntimeClass = *c
	}
	for i, ip := range p.Status.PodIPs {
		out.Addresses = r.address(out.Addresses, at("status.podIPs", i)+".ip", ip.IP)
	}
	out.Addresses = r.address(out.Addresses, "status.podIP", p.Status.PodIP)
	for i, c := range p.Spec.Containers {
		out.Ports = r.namedPorts(out.Ports, at("spec.containers", i), c)
	}
	for i, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out.Ports = r.namedPorts(out.Ports, at("spec.initContainers", i), c)
		}
	}
	return out, r.err()
}

// uid is the pod's as the runtime on its node knows it. That of a static pod is its
// manifest's hash: the object that the API server has is the kubelet's mirror of
// it, with a UID of its own.
func uid(m *metav1.ObjectMeta) string {
	if hash := m.Annotations[corev1.MirrorPodAnnotationKey]; hash != "" {
		return hash
	}
	return string(m.UID)
}

// allowed reports whether the annotation of this name is "allow". It may be
// missing; another value is an error, and asks for nothing.
func (r *reader) allowed(field string, annotations map[string]string, name string) bool {
	v, ok := annotations[name]
	if ok && v != "allow" {
		r.failf(field, "%.80q: want allow, or no such annotation", v)
	}
	return v == "allow"
}

// wish is what the annotation of this name says. A value that is neither "true"
// nor "false" is an error, and says nothing.
func (r *reader) wish(annotations map[string]string, name string) policy.Wish {
	switch v, ok := annotations[name]; {
	case !ok:
	case v == "true":
		return policy.Wanted
	case v == "false":
		return policy.Unwanted
	default:
		r.failf("metadata.annotations["+name+"]", `%.80q: want "true", "false", or no such annotation`, v)
	}
	return policy.NoWish
}

// netAdmin says whether a container of spec has CAP_NET_ADMIN. A specification
// without containers is not one that a pod ran by: nothing is known.
func netAdmin(spec *corev1.PodSpec) policy.Grant {
	if len(spec.Containers) == 0 {
		return policy.GrantUnknown
	}
	contexts := make([]*corev1.SecurityContext, 0, len(spec.Containers))
	for _, c := range slices.Concat(spec.Containers, spec.InitContainers) {
		contexts = append(contexts, c.SecurityContext)
	}
	for _, c := range spec.EphemeralContainers {
		contexts = append(contexts, c.SecurityContext)
	}
	if slices.ContainsFunc(contexts, grantsNetAdmin) {
		return policy.Granted
	}
	return policy.NotGranted
}

// grantsNetAdmin reports whether a container with this security context, which
// may be nil, has CAP_NET_ADMIN. Runtimes read capabilities in either case, with
// and without their prefix, and add after they drop.
func grantsNetAdmin(c *corev1.SecurityContext) bool {
	switch {
	case c == nil:
		return false
	case c.Privileged != nil && *c.Privileged:
		return true
	case c.Capabilities == nil:
		return false
	}
	return slices.ContainsFunc(c.Capabilities.Add, func(added corev1.Capability) bool {
		name := strings.TrimPrefix(strings.ToUpper(string(added)), "CAP_")
		return name == "NET_ADMIN" || name == "ALL"
	})
}

func (r *reader) namedPorts(list []policy.NamedPort, field string, c corev1.Container) []policy.NamedPort {
	for i, p := range c.Ports {
		if p.Name == "" {
			continue
		}
		field, before := at(field+".ports", i), len(r.errs)
		r.name(field+".name", p.Name, validation.IsValidPortName)
		port := policy.NamedPort{
			Name:  p.Name,
			Proto: r.protocol(field+".protocol", orTCP(p.Protocol)),
			Port:  r.number(field+".containerPort", p.ContainerPort),
		}
		if len(r.errs) == before {
			list = append(list, port)
		}
	}
	return list
}

// orTCP is p, or the protocol that Kubernetes takes where none is written.
func orTCP(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// Namespace parses a Namespace.
func Namespace(n *corev1.Namespace) (policy.Namespace, error) {
	r := newReader("Namespace", &n.ObjectMeta, false)
	return policy.Namespace{
		Name:        n.Name,
		Labels:      maps.Clone(n.Labels),
		Terminating: n.DeletionTimestamp != nil || n.Status.Phase == corev1.NamespaceTerminating,
		Audit:       r.wish(n.Annotations, AuditAnnotation),
		Observe:     r.wish(n.Annotations, ObserveAnnotation),
	}, r.err()
}

// Node parses a Node. Of its addresses those count that are IP addresses.
func Node(n *corev1.Node) (policy.Node, error) {
	r := newReader("Node", &n.ObjectMeta, false)
	out := policy.Node{Name: n.Name, Labels: maps.Clone(n.Labels)}
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Addresses = r.address(out.Addresses, at("status.addresses", i)+".address", a.Address)
		}
	}
	return out, r.err()
}
