package kubepolicy

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podwall/podwall/internal/policy"
)

// Pod parses a Pod. Its named ports are those of the containers that run beside
// each other: the ordinary ones and the init containers that are restarted.
func Pod(p *corev1.Pod) (policy.Pod, error) {
	r := newReader("Pod", &p.ObjectMeta, true)
	out := policy.Pod{
		Namespace:   namespaceOf(&p.ObjectMeta),
		Name:        p.Name,
		UID:         string(p.UID),
		Labels:      maps.Clone(p.Labels),
		Node:        p.Spec.NodeName,
		HostNetwork: p.Spec.HostNetwork,
		Done:        p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
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
