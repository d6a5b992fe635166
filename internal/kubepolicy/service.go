package kubepolicy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podwall/podwall/internal/policy"
)

// Service parses a Service. Headless and ExternalName Services have neither
// addresses nor ports: kube-proxy does nothing for them.
func Service(s *corev1.Service) (policy.Service, error) {
	r := newReader("Service", &s.ObjectMeta, true)
	out := policy.Service{Namespace: namespaceOf(&s.ObjectMeta), Name: s.Name}
	if s.Spec.Type == corev1.ServiceTypeExternalName || headless(s) {
		return out, r.err()
	}
	out.Addresses = r.virtual(s)
	for i, p := range s.Spec.Ports {
		field, before := at("spec.ports", i), len(r.errs)
		port := policy.ServicePort{
			Name:  p.Name,
			Proto: r.protocol(field+".protocol", orTCP(p.Protocol)),
			Port:  r.number(field+".port", p.Port),
		}
		if p.NodePort != 0 {
			port.NodePort = r.number(field+".nodePort", p.NodePort)
		}
		if len(r.errs) == before {
			out.Ports = append(out.Ports, port)
		}
	}
	return out, r.err()
}

func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(s.Spec.ClusterIPs, corev1.ClusterIPNone)
}

// virtual returns the addresses at which the node answers for s. A load balancer
// of ipMode Proxy is reached as any other host is.
func (r *reader) virtual(s *corev1.Service) []netip.Addr {
	list := r.address(nil, "spec.clusterIP", s.Spec.ClusterIP)
	for i, ip := range s.Spec.ClusterIPs {
		list = r.address(list, at("spec.clusterIPs", i), ip)
	}
	for i, ip := range s.Spec.ExternalIPs {
		list = r.address(list, at("spec.externalIPs", i), ip)
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			list = r.address(list, at("status.loadBalancer.ingress", i)+".ip", in.IP)
		}
	}
	return list
}

// EndpointSlice parses an EndpointSlice. One of host names has no endpoints, and
// a port without number is none, as for kube-proxy.
func EndpointSlice(s *discoveryv1.EndpointSlice) (policy.EndpointSlice, error) {
	r := newReader("EndpointSlice", &s.ObjectMeta, true)
	out := policy.EndpointSlice{
		Namespace: namespaceOf(&s.ObjectMeta),
		Name:      s.Name,
		Service:   s.Labels[discoveryv1.LabelServiceName],
	}
	for i, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		field, before := at("ports", i), len(r.errs)
		port := policy.EndpointPort{
			Name:  deref(p.Name, ""),
			Proto: r.protocol(field+".protocol", orTCP(deref(p.Protocol, ""))),
			Port:  r.number(field+".port", *p.Port),
		}
		if len(r.errs) == before {
			out.Ports = append(out.Ports, port)
		}
	}
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		return out, r.err()
	}
	for i, e := range s.Endpoints {
		end := policy.Endpoint{Ready: ready(e.Conditions)}
		for j, a := range e.Addresses {
			end.Addresses = r.address(end.Addresses, at(at("endpoints", i)+".addresses", j), a)
		}
		out.Endpoints = append(out.Endpoints, end)
	}
	return out, r.err()
}

// ready reports whether kube-proxy may send connections there. Unknown
// readiness counts as ready.
func ready(c discoveryv1.EndpointConditions) bool {
	return deref(c.Ready, true) || (deref(c.Serving, false) && deref(c.Terminating, false))
}

// deref is *p, or otherwise if there is none.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
