package kubepolicy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Policy parses a NetworkPolicy.
//
// If any field cannot be honoured, the result has no rules and says why in
// Broken. It still isolates what the policy selects (every pod of its namespace,
// if that is what cannot be read) in the directions it names (both, if those
// cannot be read).
func Policy(p *netv1.NetworkPolicy) (policy.Policy, error) {
	r := newReader("NetworkPolicy", &p.ObjectMeta, true)
	namespace := namespaceOf(&p.ObjectMeta)
	out := policy.Policy{
		Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: namespace, Name: p.Name},
		Subject: policy.PodSet{Namespace: namespace, Pods: r.subject(p.Spec.PodSelector)},
	}
	out.Ingress.Applies, out.Egress.Applies = r.policyTypes(&p.Spec)
	ingress, egress := r.rules(namespace, &p.Spec)
	if out.Broken = r.reason(); out.Broken != "" {
		return out, r.err()
	}
	if out.Ingress.Applies {
		out.Ingress.Rules = ingress
	}
	if out.Egress.Applies {
		out.Egress.Rules = egress
	}
	return out, nil
}

// subject reads spec.podSelector.
func (r *reader) subject(s metav1.LabelSelector) policy.Selector {
	before := len(r.errs)
	pods := r.selector("spec.podSelector", &s)
	if len(r.errs) > before {
		return policy.Selector{All: true}
	}
	return pods
}

// policyTypes reads spec.policyTypes. Without it a policy is about ingress, and
// about egress if it has an egress rule.
func (r *reader) policyTypes(s *netv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(s.PolicyTypes) == 0 {
		return true, len(s.Egress) > 0
	}
	broken := false
	for i, t := range s.PolicyTypes {
		switch t {
		case netv1.PolicyTypeIngress:
			ingress = true
		case netv1.PolicyTypeEgress:
			egress = true
		default:
			r.failf(at("spec.policyTypes", i), "%q: want Ingress or Egress", t)
			broken = true
		}
	}
	return ingress || broken, egress || broken
}

// rules reads the rules of both directions.
func (r *reader) rules(namespace string, s *netv1.NetworkPolicySpec) (ingress, egress []policy.Rule) {
	for i, in := range s.Ingress {
		field := at("spec.ingress", i)
		ingress = append(ingress, r.rule(field, field+".from", namespace, in.From, in.Ports))
	}
	for i, out := range s.Egress {
		field := at("spec.egress", i)
		egress = append(egress, r.rule(field, field+".to", namespace, out.To, out.Ports))
	}
	return ingress, egress
}

// rule reads one rule. Empty and missing lists of peers and of ports both mean
// all of them.
func (r *reader) rule(field, peerField, namespace string, peers []netv1.NetworkPolicyPeer, ports []netv1.NetworkPolicyPort) policy.Rule {
	rule := policy.Rule{Action: ruleset.Accept}
	if len(peers) == 0 {
		rule.Peers = []policy.Peer{{Any: true}}
	}
	for i, p := range peers {
		rule.Peers = append(rule.Peers, r.peer(at(peerField, i), namespace, p))
	}
	if len(ports) == 0 {
		rule.Ports = []policy.Port{{Ports: ruleset.AnyPort}}
	}
	for i, p := range ports {
		rule.Ports = append(rule.Ports, r.port(at(field+".ports", i), p))
	}
	return rule
}

// peer reads one peer: a block, or pods by labels of their own, of their
// namespace, or both.
func (r *reader) peer(field, namespace string, p netv1.NetworkPolicyPeer) policy.Peer {
	switch {
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		r.failf(field, "ipBlock together with a selector: write two peers")
		return policy.Peer{}
	case p.IPBlock != nil:
		return policy.Peer{Block: r.block(field+".ipBlock", p.IPBlock)}
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		r.failf(field, "empty: want podSelector, namespaceSelector or ipBlock")
		return policy.Peer{}
	}
	set := policy.PodSet{Namespace: namespace, Pods: policy.Selector{All: true}}
	if p.NamespaceSelector != nil {
		set.Namespace = ""
		set.Namespaces = r.selector(field+".namespaceSelector", p.NamespaceSelector)
	}
	if p.PodSelector != nil {
		set.Pods = r.selector(field+".podSelector", p.PodSelector)
	}
	return policy.Peer{Pods: set}
}

// port reads one port, range of ports, or name of a port.
func (r *reader) port(field string, p netv1.NetworkPolicyPort) policy.Port {
	proto := corev1.ProtocolTCP
	if p.Protocol != nil {
		proto = *p.Protocol
	}
	number := r.protocol(field+".protocol", proto)
	switch {
	case p.Port == nil && p.EndPort != nil:
		r.failf(field+".endPort", "endPort without port")
		return policy.Port{}
	case p.Port == nil:
		return policy.Port{Ports: ruleset.AllPorts(number)}
	case p.Port.Type == intstr.String && p.EndPort != nil:
		r.failf(field+".endPort", "endPort together with the named port %q", p.Port.StrVal)
		return policy.Port{}
	case p.Port.Type == intstr.String:
		r.name(field+".port", p.Port.StrVal, validation.IsValidPortName)
		return policy.Port{Name: p.Port.StrVal, Ports: ruleset.Ports{Proto: number}}
	}
	first := r.number(field+".port", p.Port.IntVal)
	last := first
	if p.EndPort != nil {
		if last = r.number(field+".endPort", *p.EndPort); *p.EndPort < p.Port.IntVal {
			r.failf(field+".endPort", "%d is less than port %d", *p.EndPort, p.Port.IntVal)
		}
	}
	return policy.Port{Ports: ruleset.Ports{Proto: number, First: first, Last: last}}
}

var protocols = map[corev1.Protocol]ruleset.Proto{
	corev1.ProtocolTCP:  ruleset.TCP,
	corev1.ProtocolUDP:  ruleset.UDP,
	corev1.ProtocolSCTP: ruleset.SCTP,
}

func (r *reader) protocol(field string, p corev1.Protocol) ruleset.Proto {
	proto, ok := protocols[p]
	if !ok {
		r.failf(field, "%q: want TCP, UDP or SCTP", p)
	}
	return proto
}

// number reads a port number; 0 is what it returns for a bad one.
func (r *reader) number(field string, n int32) uint16 {
	if n < 1 || n > 65535 {
		r.failf(field, "%d: want 1 to 65535", n)
		return 0
	}
	return uint16(n)
}

// block reads an ipBlock: what remains of its cidr without the exceptions.
func (r *reader) block(field string, b *netv1.IPBlock) []netip.Prefix {
	cidr, ok := r.cidr(field+".cidr", b.CIDR)
	var except []netip.Prefix
	for i, s := range b.Except {
		e, valid := r.cidr(at(field+".except", i), s)
		if valid && ok && !within(cidr, e) {
			r.failf(at(field+".except", i), "%s is not inside %s", e, cidr)
		}
		except = append(except, e)
	}
	if !ok {
		return nil
	}
	return without(cidr, except)
}
