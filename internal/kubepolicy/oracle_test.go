package kubepolicy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// random returns a source of random numbers and says, should the test fail, how
// to get the same ones again.
func random(t *testing.T) cluster {
	seed, err := strconv.ParseUint(os.Getenv("PODWALL_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with PODWALL_SEED=%d", seed)
		}
	})
	return cluster{Rand: rand.New(rand.NewPCG(seed, 0))}
}

// Cyclonus, which shares no line with this module, and Compile agree about every
// packet between random pods under random policies.
func TestCyclonusAgrees(t *testing.T) {
	c := random(t)
	verdicts := make(map[bool]int)
	for range 300 {
		c.fill()
		w, oracle := policy.New(c.snapshot(t)), matcher.BuildNetworkPolicies(c.chance(50), c.asCyclonusReadsThem())
		compiled := make(map[*corev1.Pod]ruleset.RuleSet)
		for range 100 {
			p := c.packet()
			for _, ingress := range []bool{true, false} {
				want := p.allowedBy(oracle, ingress)
				got := p.decide(w, compiled, ingress)
				verdicts[want]++
				if (got.Action == ruleset.Accept) != want {
					t.Fatalf("%v, ingress %t: got %+v, want allowed to be %t\n%s", p, ingress, got, want, c.policiesText())
				}
			}
		}
	}
	if n := min(verdicts[true], verdicts[false]); n < 5000 {
		t.Errorf("the rarer verdict came %d times: the clusters are too much alike", n)
	}
}

// Kubernetes' own selectors, which every controller uses, and ours agree; where
// cyclonus errs (NotIn without the label, empty values), this one does not.
func TestKubernetesSelectorsAgree(t *testing.T) {
	c := random(t)
	for range 20000 {
		s := metav1.LabelSelector{}
		for range c.IntN(3) {
			metav1.AddLabelToSelector(&s, c.pick("app", "tier"), c.pick("", "a", "b"))
		}
		for range c.IntN(3) {
			s.MatchExpressions = append(s.MatchExpressions, c.expression("app", "tier"))
		}
		theirs, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		ours := (&reader{}).selector("", &s)
		set := labels.Set{}
		for _, k := range []string{"app", "tier"} {
			if c.chance(60) {
				set[k] = c.pick("", "a", "b", "c")
			}
		}
		if got, want := ours.Picks(policy.Labels(set)), theirs.Matches(set); got != want {
			t.Fatalf("%s picks %v: %t, want %t", ours, set, got, want)
		}
	}
}

// A cluster is a random one, in Kubernetes' terms.
type cluster struct {
	*rand.Rand
	namespaces []*corev1.Namespace
	pods       []*corev1.Pod
	policies   []*netv1.NetworkPolicy
}

func (c *cluster) chance(percent int) bool    { return c.IntN(100) < percent }
func (c *cluster) pick(from ...string) string { return from[c.IntN(len(from))] }
func (c *cluster) namespace() string          { return c.pick("shop", "bank", "farm") }
func (c *cluster) protocol() corev1.Protocol {
	return corev1.Protocol(c.pick("TCP", "TCP", "UDP", "SCTP"))
}
func (c *cluster) number() int32                  { return []int32{1, 80, 81, 443, 8080, 65535}[c.IntN(6)] }
func (c *cluster) portName() string               { return c.pick("http", "dns", "admin") }
func (c *cluster) block(bits4, bits6 int) string  { return c.blockIn(10, bits4, bits6) }
func (c *cluster) labelValues() map[string]string { return map[string]string{"tier": c.pick("a", "b")} }

// labels always hold tier and sometimes app.
func (c *cluster) labels() map[string]string {
	set := c.labelValues()
	if c.chance(70) {
		set["app"] = c.pick("a", "b", "c")
	}
	return set
}

func (c *cluster) fill() {
	c.namespaces, c.pods, c.policies = nil, nil, nil
	for _, n := range []string{"shop", "bank", "farm"} {
		l := c.labels()
		l[policy.NamespaceNameLabel] = n
		c.namespaces = append(c.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n, Labels: l}})
	}
	for i := range 10 {
		c.pods = append(c.pods, c.pod(i+1))
	}
	for i := range c.IntN(7) {
		c.policies = append(c.policies, c.policy(i))
	}
}

func (c *cluster) pod(i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod-", i), Namespace: c.namespace(), Labels: c.labels()}}
	p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", i%2, i)}, {IP: fmt.Sprintf("fd00::%d:%d", i%2, i)}}
	if c.chance(20) {
		p.Status.PodIPs = p.Status.PodIPs[:1]
	}
	switch c.IntN(10) {
	case 0:
		p.Spec.HostNetwork = true
	case 1:
		p.Status.Phase = corev1.PodFailed
	}
	for range c.IntN(4) {
		port := corev1.ContainerPort{Name: c.portName(), ContainerPort: c.number(), Protocol: c.protocol()}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{port}})
	}
	return p
}

func (c *cluster) policy(i int) *netv1.NetworkPolicy {
	p := &netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("policy-", i), Namespace: c.namespace()}}
	p.Spec.PodSelector = *c.selector()
	for range c.IntN(3) {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, netv1.PolicyType(c.pick("Ingress", "Egress")))
	}
	for range c.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, netv1.NetworkPolicyIngressRule{From: c.peers(), Ports: c.ports()})
	}
	for range c.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, netv1.NetworkPolicyEgressRule{To: c.peers(), Ports: c.ports()})
	}
	return p
}

func (c *cluster) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch c.IntN(4) {
	case 0:
		s.MatchLabels = c.labels()
	case 1:
		s.MatchLabels = c.labelValues()
	case 2:
		for range 1 + c.IntN(2) {
			s.MatchExpressions = append(s.MatchExpressions, c.expression("tier"))
		}
	}
	return s
}

// expression is about one of keys for NotIn, which cyclonus gets wrong where the
// label is missing, and about any label otherwise.
func (c *cluster) expression(keys ...string) metav1.LabelSelectorRequirement {
	e := metav1.LabelSelectorRequirement{Key: c.pick("app", "tier"), Operator: metav1.LabelSelectorOperator(c.pick("In", "NotIn", "Exists", "DoesNotExist"))}
	switch e.Operator {
	case metav1.LabelSelectorOpNotIn:
		e.Key = c.pick(keys...)
		fallthrough
	case metav1.LabelSelectorOpIn:
		e.Values = []string{c.pick("a", "b"), c.pick("b", "c")}
	}
	return e
}

func (c *cluster) peers() []netv1.NetworkPolicyPeer {
	var peers []netv1.NetworkPolicyPeer
	for range c.IntN(4) {
		switch c.IntN(4) {
		case 0:
			b := &netv1.IPBlock{CIDR: c.block(8, 16)}
			if c.chance(50) {
				b.CIDR = c.block(24, 112)
			}
			if c.chance(50) {
				b.CIDR, b.Except = "10.0.0.7/8", []string{c.blockIn(4, 24, 0), c.blockIn(4, 31, 0)}
			}
			peers = append(peers, netv1.NetworkPolicyPeer{IPBlock: b})
		case 1:
			peers = append(peers, netv1.NetworkPolicyPeer{NamespaceSelector: c.selector()})
		case 2:
			peers = append(peers, netv1.NetworkPolicyPeer{PodSelector: c.selector()})
		case 3:
			peers = append(peers, netv1.NetworkPolicyPeer{NamespaceSelector: c.selector(), PodSelector: c.selector()})
		}
	}
	return peers
}

// blockIn is a block, seldom canonical; of IPv4 if family is 4, else of either.
func (c *cluster) blockIn(family, bits4, bits6 int) string {
	if family == 4 || c.chance(60) {
		return fmt.Sprintf("10.0.%d.%d/%d", c.IntN(2), c.IntN(12), bits4)
	}
	return fmt.Sprintf("fd00::%d:%d/%d", c.IntN(2), c.IntN(12), bits6)
}

func (c *cluster) ports() []netv1.NetworkPolicyPort {
	var ports []netv1.NetworkPolicyPort
	for range c.IntN(4) {
		var p netv1.NetworkPolicyPort
		if c.chance(70) {
			proto := c.protocol()
			p.Protocol = &proto
		}
		number := intstr.FromInt32(c.number())
		switch c.IntN(4) {
		case 0:
			name := intstr.FromString(c.portName())
			p.Port = &name
		case 1:
			p.Port = &number
		case 2:
			last := min(65535, number.IntVal+int32(c.IntN(400)))
			p.Port, p.EndPort = &number, &last
		}
		ports = append(ports, p)
	}
	return ports
}

func (c *cluster) snapshot(t *testing.T) policy.Snapshot {
	var s policy.Snapshot
	check := func(err error) {
		if err != nil {
			t.Fatalf("parse a valid object: %v", err)
		}
	}
	for _, n := range c.namespaces {
		ns, err := Namespace(n)
		check(err)
		s.Namespaces = append(s.Namespaces, ns)
	}
	for _, p := range c.pods {
		pod, err := Pod(p)
		check(err)
		s.Pods = append(s.Pods, pod)
	}
	for _, p := range c.policies {
		parsed, err := Policy(p)
		check(err)
		s.Policies = append(s.Policies, parsed)
	}
	return s
}

// asCyclonusReadsThem returns the policies with what the API server would fill
// in, and with what cyclonus means otherwise put in other words: for egress, a
// named port is the peer pod's, so that a block of addresses has none.
func (c *cluster) asCyclonusReadsThem() []*netv1.NetworkPolicy {
	var list []*netv1.NetworkPolicy
	for _, p := range c.policies {
		p = p.DeepCopy()
		if len(p.Spec.PolicyTypes) == 0 {
			p.Spec.PolicyTypes = []netv1.PolicyType{netv1.PolicyTypeIngress}
			if len(p.Spec.Egress) > 0 {
				p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, netv1.PolicyTypeEgress)
			}
		}
		var egress []netv1.NetworkPolicyEgressRule
		for _, r := range p.Spec.Egress {
			egress = append(egress, splitBlocks(r)...)
		}
		p.Spec.Egress = egress
		list = append(list, p)
	}
	return list
}

func splitBlocks(r netv1.NetworkPolicyEgressRule) []netv1.NetworkPolicyEgressRule {
	isBlock := func(p netv1.NetworkPolicyPeer) bool { return p.IPBlock != nil }
	isNamed := func(p netv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String }
	blocks := netv1.NetworkPolicyEgressRule{
		To:    slices.DeleteFunc(slices.Clone(r.To), func(p netv1.NetworkPolicyPeer) bool { return !isBlock(p) }),
		Ports: slices.DeleteFunc(slices.Clone(r.Ports), isNamed),
	}
	pods := netv1.NetworkPolicyEgressRule{To: slices.DeleteFunc(slices.Clone(r.To), isBlock), Ports: r.Ports}
	if len(blocks.To) == 0 || len(blocks.Ports) == len(r.Ports) {
		return []netv1.NetworkPolicyEgressRule{r}
	}
	var rules []netv1.NetworkPolicyEgressRule
	if len(blocks.Ports) > 0 {
		rules = append(rules, blocks)
	}
	if len(pods.To) > 0 {
		rules = append(rules, pods)
	}
	return rules
}

func (c *cluster) policiesText() string {
	text := ""
	for _, p := range c.policies {
		text += fmt.Sprintf("%s/%s %s\n", p.Namespace, p.Name, p.Spec.String())
	}
	return text
}

// A packet opens a flow between two ends, of which at least one is a pod.
type packet struct {
	src, dst end
	protocol corev1.Protocol
	port     int32
}

// An end is a pod of the cluster, or an address of anything else.
type end struct {
	addr   netip.Addr
	pod    *corev1.Pod
	labels map[string]string // of its namespace
}

func (c *cluster) packet() packet {
	family := c.IntN(2)
	p := packet{src: c.end(family), dst: c.end(family), protocol: c.protocol(), port: c.number()}
	if c.chance(5) {
		p.protocol, p.port = "ICMP", 0
	}
	return p
}

// end is one that selectors can pick, if it is a pod.
func (c *cluster) end(family int) end {
	p := c.pods[c.IntN(len(c.pods))]
	addr := []string{"10.0.1.200", "fd00::1:200"}[family]
	if family < len(p.Status.PodIPs) && c.chance(90) {
		addr = p.Status.PodIPs[family].IP
	} else {
		return end{addr: netip.MustParseAddr(addr)}
	}
	e := end{addr: netip.MustParseAddr(addr)}
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodFailed {
		return e
	}
	i := slices.IndexFunc(c.namespaces, func(n *corev1.Namespace) bool { return n.Name == p.Namespace })
	e.pod, e.labels = p, c.namespaces[i].Labels
	return e
}

func (e end) cyclonus() *matcher.TrafficPeer {
	peer := &matcher.TrafficPeer{IP: e.addr.String()}
	if e.pod != nil {
		peer.Internal = &matcher.InternalPeer{PodLabels: e.pod.Labels, NamespaceLabels: e.labels, Namespace: e.pod.Namespace}
	}
	return peer
}

// names are what the packet's destination calls its port. Cyclonus takes one, so
// it is asked for each of them.
func (p packet) names() []string {
	names := []string{""}
	if p.dst.pod != nil {
		for _, c := range p.dst.pod.Spec.Containers {
			if q := c.Ports[0]; q.ContainerPort == p.port && q.Protocol == p.protocol {
				names = append(names, q.Name)
			}
		}
	}
	return names
}

func (p packet) allowedBy(oracle *matcher.Policy, ingress bool) bool {
	return slices.ContainsFunc(p.names(), func(name string) bool {
		return oracle.IsIngressOrEgressAllowed(&matcher.Traffic{
			Source: p.src.cyclonus(), Destination: p.dst.cyclonus(),
			ResolvedPort: int(p.port), ResolvedPortName: name, Protocol: p.protocol,
		}, ingress).IsAllowed()
	})
}

// decide asks the rule set of the packet's one end about the other. What is not
// a pod has none.
func (p packet) decide(w *policy.World, compiled map[*corev1.Pod]ruleset.RuleSet, ingress bool) ruleset.Decision {
	own, peer, dir := p.dst, p.src, ruleset.Ingress
	if !ingress {
		own, peer, dir = p.src, p.dst, ruleset.Egress
	}
	if own.pod == nil {
		return ruleset.Decision{Action: ruleset.Accept}
	}
	rs, ok := compiled[own.pod]
	if !ok {
		pod, _ := w.Pod(own.pod.Namespace, own.pod.Name)
		rs = w.Compile(policy.Target{Pod: pod, Addresses: pod.Addresses})
		compiled[own.pod] = rs
	}
	proto, ok := protocols[p.protocol]
	if !ok {
		proto = 1
	}
	return rs.Chain(dir).Decide(peer.addr, proto, uint16(p.port))
}
