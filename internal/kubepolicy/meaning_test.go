package kubepolicy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// read turns the YAML of one object into it; a field it does not have is a
// mistake in the test.
func read[T any](t *testing.T, text string) *T {
	t.Helper()
	var o T
	if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
		t.Fatalf("read %T: %v\n%s", o, err, text)
	}
	return &o
}

// shop is the cluster in which policies are given meaning. Their subject is the
// pod shop/api.
func shop(t *testing.T) policy.Snapshot {
	var s policy.Snapshot
	for _, text := range []string{
		`metadata: {name: shop, labels: {team: a}}`,
		`metadata: {name: bank, labels: {team: b}}`,
	} {
		n, err := Namespace(read[corev1.Namespace](t, text))
		if err != nil {
			t.Fatal(err)
		}
		s.Namespaces = append(s.Namespaces, n)
	}
	for _, text := range []string{`
metadata: {namespace: shop, name: api, labels: {app: api}}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
spec:
  containers:
  - ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]
  - ports: [{name: http, containerPort: 81}, {containerPort: 9999}]`, `
metadata: {namespace: shop, name: web, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}`, `
metadata: {namespace: shop, name: host, labels: {app: web}}
status: {podIPs: [{ip: 192.168.0.1}]}
spec: {hostNetwork: true, containers: [{ports: [{name: http, containerPort: 8080}]}]}`, `
metadata: {namespace: shop, name: leaving, labels: {app: leaving}, deletionTimestamp: "2026-01-01T00:00:00Z"}
status: {podIPs: [{ip: 10.0.0.5}], phase: Running}`, `
metadata: {namespace: bank, name: vault, labels: {app: vault, tier: ""}}
status: {podIPs: [{ip: 10.0.0.3}, {ip: "fd00::3"}]}
spec: {containers: [{ports: [{name: http, containerPort: 8443}]}]}`, `
metadata: {namespace: bank, name: old, labels: {app: old}}
status: {podIPs: [{ip: 10.0.0.4}], phase: Succeeded}`, `
metadata: {namespace: bank, name: new, labels: {app: new}}
status: {podIPs: [{ip: 10.0.0.4}], phase: Running}`,
		`{metadata: {namespace: lost, name: stray, labels: {app: web}}, status: {podIPs: [{ip: 10.0.0.6}]}}`,
	} {
		p, err := Pod(read[corev1.Pod](t, text))
		if err != nil {
			t.Fatal(err)
		}
		s.Pods = append(s.Pods, p)
	}
	return s
}

// flows are written "in 10.0.0.1 TCP 80": from the far end's address to the
// subject's port, or "out" to the far end's port.
func judge(t *testing.T, rs ruleset.RuleSet, flow string) ruleset.Action {
	t.Helper()
	var dir, peer, proto string
	var port uint16
	if n, err := fmt.Sscan(flow, &dir, &peer, &proto, &port); n < 3 {
		t.Fatalf("flow %q: %v", flow, err)
	}
	p := ruleset.Proto(1) // ICMP
	if proto != "ICMP" {
		if err := p.UnmarshalText([]byte(proto)); err != nil {
			t.Fatalf("flow %q: %v", flow, err)
		}
	}
	chain := rs.Ingress
	if dir == "out" {
		chain = rs.Egress
	}
	return chain.Decide(netip.MustParseAddr(peer), p, port).Action
}

const (
	anything = "in 10.0.0.1 TCP 80; in fd00::1 UDP 1; in 203.0.113.9 SCTP 9; in 192.168.0.1 ICMP"
	goes     = "out 10.0.0.1 TCP 80; out fd00::1 UDP 1; out 203.0.113.9 SCTP 9; out 192.168.0.1 ICMP"
)

func TestMeaning(t *testing.T) {
	tests := []struct {
		name   string
		spec   string // of a policy in namespace shop
		accept string
		drop   string
	}{
		// E11: what is empty and what is missing.
		{"missing ingress isolates", `{podSelector: {}}`, goes, anything},
		{"empty ingress isolates", `{podSelector: {}, ingress: []}`, goes, anything},
		{"empty rule admits everything", `{podSelector: {}, ingress: [{}]}`, anything + ";" + goes, ""},
		{"empty from admits everybody", `{podSelector: {}, ingress: [{from: []}]}`, anything, ""},
		{"empty ports admit every protocol", `{podSelector: {}, ingress: [{ports: []}]}`, anything, ""},
		{"policyTypes Egress alone leaves ingress open", `{podSelector: {}, policyTypes: [Egress]}`, anything, goes},
		{"policyTypes Egress ignores ingress rules", `{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}`, anything, goes},
		{"an egress rule without policyTypes isolates both ways", `{podSelector: {}, egress: [{}]}`, goes, anything},
		{"empty egress without policyTypes leaves egress open", `{podSelector: {}, egress: []}`, goes, anything},
		{"policyTypes both isolates both ways", `{podSelector: {}, policyTypes: [Ingress, Egress]}`, "", anything + ";" + goes},
		{"policy that picks nobody changes nothing", `{podSelector: {matchLabels: {app: ghost}}, policyTypes: [Ingress, Egress]}`, anything + ";" + goes, ""},
		{"peer that is nobody still isolates", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: ghost}}}]}]}`, "", anything},

		// Peers.
		{"podSelector looks into the policy's own namespace", `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`,
			"in 10.0.0.1 TCP 1; in fd00::1 ICMP; in 10.0.0.2 TCP 1", "in 10.0.0.3 TCP 1; in 10.0.0.6 TCP 1; in 203.0.113.9 TCP 1"},
		{"namespaceSelector takes all pods there", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`,
			"in 10.0.0.3 TCP 1; in fd00::3 TCP 1; in 10.0.0.4 TCP 1", "in 10.0.0.1 TCP 1; in 10.0.0.6 TCP 1"},
		{"empty namespaceSelector takes all pods", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`,
			"in 10.0.0.1 TCP 1; in 10.0.0.3 TCP 1; in 10.0.0.6 TCP 1", "in 203.0.113.9 TCP 1; in 192.168.0.1 TCP 1"},
		{"both selectors in one peer must hold", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: new}}}]}]}`,
			"in 10.0.0.4 TCP 1", "in 10.0.0.3 TCP 1; in 10.0.0.1 TCP 1"},
		{"two peers add up", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: web}}}]}]}`,
			"in 10.0.0.4 TCP 1; in 10.0.0.1 TCP 1", "in 10.0.0.5 TCP 1"},
		{"a namespace that is only named has its name as label", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lost}}}]}]}`,
			"in 10.0.0.6 TCP 1", "in 10.0.0.1 TCP 1"},
		{"a namespace's name is a label that its manifest may leave out", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}}]}]}`,
			"in 10.0.0.3 TCP 1", "in 10.0.0.1 TCP 1"},
		{"NotIn holds where the label is missing", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [b]}]}}]}]}`,
			"in 10.0.0.1 TCP 1; in 10.0.0.6 TCP 1", "in 10.0.0.3 TCP 1"},
		{"an empty label is not a missing one", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {tier: ""}}}]}]}`,
			"in 10.0.0.3 TCP 1", "in 10.0.0.1 TCP 1"},
		{"Exists and DoesNotExist", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}`,
			"in 10.0.0.1 TCP 1; in 10.0.0.4 TCP 1", "in 10.0.0.3 TCP 1; in 10.0.0.6 TCP 1"},

		// E3, E4, E9: pods that are special.
		{"a completed pod is no peer", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: old}}}]}]}`, "", "in 10.0.0.4 TCP 1"},
		{"a terminating pod is still a peer", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: leaving}}}]}]}`, "in 10.0.0.5 TCP 1", ""},
		{"a hostNetwork pod is no peer", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`, "in 10.0.0.1 TCP 1", "in 192.168.0.1 TCP 1"},

		// E10: blocks.
		{"bits behind the mask are ignored", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.161.0.0/8}}]}]}`, "in 10.0.0.9 TCP 1", "in 11.0.0.1 TCP 1"},
		{"overlapping blocks keep their own ports", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.161.0.0/8}}], ports: [{port: 1}]}, {from: [{ipBlock: {cidr: 10.0.0.0/16}}], ports: [{port: 2}]}]}`,
			"in 10.0.0.9 TCP 1; in 10.0.0.9 TCP 2; in 10.9.0.1 TCP 1", "in 10.9.0.1 TCP 2"},
		{"except takes away", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/24, 10.0.0.128/25, 10.1.0.0/16]}}]}]}`,
			"in 10.0.1.0 TCP 1; in 10.2.0.0 TCP 1; in 10.255.255.255 TCP 1", "in 10.0.0.0 TCP 1; in 10.0.0.255 TCP 1; in 10.1.2.3 TCP 1"},
		{"except of everything leaves nothing", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}`, "", anything},
		{"except counts for its own rule only", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/24]}}]}, {from: [{ipBlock: {cidr: 10.0.0.3/32}}]}]}`,
			"in 10.0.0.3 TCP 1", "in 10.0.0.4 TCP 1"},
		{"all of IPv4 says nothing about IPv6", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`, "in 203.0.113.9 TCP 1", "in fd00::1 TCP 1"},
		{"all of IPv6 says nothing about IPv4", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]}`, "in fd00::1 TCP 1", "in 203.0.113.9 TCP 1"},
		{"all but one IPv6 address", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::/0", except: ["fd00::1/128"]}}]}]}`, "in fd00:: TCP 1; in fd00::2 TCP 1", "in fd00::1 TCP 1"},
		{"an IPv4-mapped block is an IPv4 block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::ffff:10.0.0.0/104"}}]}]}`, "in 10.0.0.9 TCP 1", "in fd00::1 TCP 1"},
		{"an IPv4-mapped block has IPv4 exceptions", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::ffff:10.0.0.0/104", except: [10.1.0.0/16]}}]}]}`, "in 10.0.0.9 TCP 1", "in 10.1.0.1 TCP 1"},
		{"a block picks pods by their address", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/32}}]}]}`, "in 10.0.0.1 TCP 1", "in fd00::1 TCP 1"},

		// E12, E13: ports.
		{"protocol is TCP where none is written", `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`, "in 10.0.0.1 TCP 80", "in 10.0.0.1 UDP 80; in 10.0.0.1 TCP 81; in 10.0.0.1 ICMP"},
		{"protocol without port is every port", `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`, "in 10.0.0.1 UDP 0; in 10.0.0.1 UDP 65535", "in 10.0.0.1 TCP 80; in 10.0.0.1 ICMP"},
		{"endPort is included", `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}`, "in 10.0.0.1 TCP 80; in 10.0.0.1 TCP 90", "in 10.0.0.1 TCP 79; in 10.0.0.1 TCP 91"},
		{"endPort may be port", `{podSelector: {}, ingress: [{ports: [{port: 65535, endPort: 65535}]}]}`, "in 10.0.0.1 TCP 65535", "in 10.0.0.1 TCP 65534"},
		{"SCTP is a protocol", `{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 7}]}]}`, "in 10.0.0.1 SCTP 7", "in 10.0.0.1 TCP 7"},
		{"every container's port of that name counts", `{podSelector: {}, ingress: [{ports: [{port: http}]}]}`, "in 10.0.0.1 TCP 80; in 10.0.0.1 TCP 81", "in 10.0.0.1 TCP 8080; in 10.0.0.1 UDP 80"},
		{"a port's name belongs to its protocol", `{podSelector: {}, ingress: [{ports: [{port: dns}]}]}`, "", "in 10.0.0.1 TCP 53; in 10.0.0.1 UDP 53"},
		{"a name that the pod doesn't have matches nothing", `{podSelector: {}, ingress: [{ports: [{port: ghost}, {port: 1}]}]}`, "in 10.0.0.1 TCP 1", "in 10.0.0.1 TCP 80"},
		{"a named port of ingress goes with a block", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}]}]}`, "in 10.9.9.9 TCP 81", "in 11.0.0.1 TCP 81"},
		{"a named port of egress is each peer's own", `{podSelector: {}, egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}`,
			"out 10.0.0.1 TCP 8080; out 10.0.0.3 TCP 8443; out fd00::3 TCP 8443; out 10.0.0.2 TCP 81",
			"out 10.0.0.1 TCP 8443; out 10.0.0.3 TCP 8080; out 10.0.0.4 TCP 8080; out 192.168.0.1 TCP 8080"},
		{"a named port of egress to everybody is that of every pod", `{podSelector: {}, egress: [{ports: [{port: http}]}]}`,
			"out 10.0.0.1 TCP 8080; out 10.0.0.3 TCP 8443", "out 10.0.0.3 TCP 80; out 203.0.113.9 TCP 8080"},
		{"a block has no named port of its own in egress", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}, {port: 1}]}]}`,
			"out 10.0.0.1 TCP 1", "out 10.0.0.1 TCP 8080"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Policy(read[netv1.NetworkPolicy](t, "metadata: {namespace: shop, name: p}\nspec: "+tt.spec))
			if err != nil {
				t.Fatal(err)
			}
			s := shop(t)
			s.Policies = []policy.Policy{p}
			rs := policy.New(s).Compile(policy.Target{Pod: s.Pods[0], Addresses: s.Pods[0].Addresses})
			expect(t, rs, ruleset.Accept, tt.accept)
			expect(t, rs, ruleset.Drop, tt.drop)
		})
	}
}

// expect says which of flows, separated by semicolons, does not meet want.
func expect(t *testing.T, rs ruleset.RuleSet, want ruleset.Action, flows string) {
	t.Helper()
	for flow := range strings.SplitSeq(flows, ";") {
		if flow = strings.TrimSpace(flow); flow == "" {
			continue
		}
		if got := judge(t, rs, flow); got != want {
			t.Errorf("%s: %s, want %s", flow, got, want)
		}
	}
}
