package neighbours

import (
	"fmt"
	"strings"
)

// manifests are the pods and Services of all cases.
func (s *stage) manifests() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, "---\n"+format, args...) }
	add(`apiVersion: v1
kind: Node
metadata: {name: other}
status: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: "%s"}]}
`, otherNode[0], otherNode[1])
	for _, p := range backends {
		node := ""
		if p.remote {
			node = "nodeName: other, "
		}
		add(`apiVersion: v1
kind: Pod
metadata: {namespace: back, name: %s, labels: {app: %s}}
spec: {%scontainers: [{name: main, ports: [{name: web, containerPort: %d}]}]}
status: {phase: Running, podIPs: [{ip: %s}, {ip: "%s"}]}
`, p.name, p.label, node, p.web, p.at[0], p.at[1])
	}
	for i, c := range serviceCases {
		add(`apiVersion: v1
kind: Pod
metadata: {namespace: client, name: c%d, labels: {case: c%d}}
spec: {containers: [{name: main}]}
`, i, i)
		s.addService(add, i, c)
	}
	return b.String()
}

// addService writes the Service of a case, and its slices.
func (s *stage) addService(add func(string, ...any), i int, c serviceCase) {
	const head = "apiVersion: v1\nkind: Service\nmetadata: {namespace: back, name: s%d}\n"
	switch {
	case strings.HasPrefix(c.name, "ExternalName"):
		add(head+"spec: {type: ExternalName, externalName: outside.example.com}\n", i)
		return
	case strings.HasPrefix(c.name, "headless"):
		add(head+"spec: {clusterIP: None, clusterIPs: [None], ports: [{name: web, port: 80, targetPort: web}]}\n", i)
	default:
		vip, ext, lb := vipOf(i), externalOf(i), balancerOf(i)
		affinity := "None"
		if c.sticky {
			affinity = "ClientIP"
		}
		add(head+`spec:
  type: LoadBalancer
  clusterIP: %[2]s
  clusterIPs: [%[2]s, "%[3]s"]
  externalIPs: [%[4]s, "%[5]s"]
  sessionAffinity: %[8]s
  ports: [{name: web, protocol: %[9]s, port: 80, targetPort: web, nodePort: %[10]d}]
status: {loadBalancer: {ingress: [{ip: %[6]s}, {ip: "%[7]s"}]}}
`, i, vip[0], vip[1], ext[0], ext[1], lb[0], lb[1], affinity, strings.ToUpper(c.protocol()), nodePortOf(i))
	}
	for j, e := range s.endpoints(i) {
		for f, kind := range []string{"IPv4", "IPv6"} {
			add(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: back, name: s%d-%d-%d, labels: {kubernetes.io/service-name: s%d}}
addressType: %s
ports: [{name: web, protocol: %s, port: %d}]
endpoints: [{addresses: ["%s"], conditions: {ready: %v}}]
`, i, j, f, i, kind, strings.ToUpper(c.protocol()), e.port, e.at[f], e.ready)
		}
	}
}

// blocks are the words of serviceCase.allow that are no pods.
var blocks = map[string][2]string{
	"outside":   {"203.0.113.10/32", "2001:db8:113::10/128"},
	"vips":      {"10.96.0.0/16", "fd00:96::/64"},
	"externals": {"198.18.0.0/15", "2001:db8:18::/47"},
	"other":     {"198.51.100.7/32", "2001:db8:51::7/128"},
	"any":       {"0.0.0.0/0", "::/0"},
}

// policies are the clients' and that of guarded.
func policies() string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: back, name: guarded}
spec:
  podSelector: {matchLabels: {app: guarded}}
  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {case: c%d}}}]}]
`, admitted())
	for i, c := range serviceCases {
		if c.allow == "-" {
			continue
		}
		fmt.Fprintf(&b, `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: client, name: c%d}
spec:
  podSelector: {matchLabels: {case: c%d}}
  policyTypes: [Egress]
`, i, i)
		for n, word := range strings.Fields(c.allow) {
			if n == 0 {
				b.WriteString("  egress:\n")
			}
			b.WriteString("  - " + egressRule(word, c.protocol()) + "\n")
		}
	}
	return b.String()
}

// egressRule is a word like good/8080,web as a rule.
func egressRule(word, proto string) string {
	who, ports, _ := strings.Cut(word, "/")
	peers := fmt.Sprintf("{namespaceSelector: {}, podSelector: {matchLabels: {app: %s}}}", who)
	if block, ok := blocks[who]; ok {
		peers = fmt.Sprintf(`{ipBlock: {cidr: %s}}, {ipBlock: {cidr: "%s"}}`, block[0], block[1])
	}
	rule := "{to: [" + peers + "]"
	if ports != "" {
		var list []string
		for p := range strings.SplitSeq(ports, ",") {
			list = append(list, fmt.Sprintf("{protocol: %s, port: %s}", strings.ToUpper(proto), p))
		}
		rule += ", ports: [" + strings.Join(list, ", ") + "]"
	}
	return rule + "}"
}
