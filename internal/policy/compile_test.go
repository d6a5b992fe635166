package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// The nouns of these tests.

func addr(s ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range s {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

// newPod is namespace/name with the label app=name.
func newPod(path string, addrs ...string) policy.Pod {
	ns, name, _ := strings.Cut(path, "/")
	return policy.Pod{Namespace: ns, Name: name, Labels: policy.Labels{"app": name}, Addresses: addr(addrs...)}
}

func app(name string) policy.Selector {
	return policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{name}}}}
}

func inShop(name string) policy.Peer {
	return policy.Peer{Pods: policy.PodSet{Namespace: "shop", Pods: app(name)}}
}

func block(cidr ...string) policy.Peer {
	var p policy.Peer
	for _, c := range cidr {
		p.Block = append(p.Block, netip.MustParsePrefix(c))
	}
	return p
}

func tcp(port uint16) policy.Port {
	return policy.Port{Ports: ruleset.Ports{Proto: ruleset.TCP, First: port, Last: port}}
}

func namedTCP(name string) policy.Port {
	return policy.Port{Name: name, Ports: ruleset.Ports{Proto: ruleset.TCP}}
}

var (
	anyPort = policy.Port{Ports: ruleset.AnyPort}
	anyone  = policy.Peer{Any: true}
)

// rule accepts flows between the subject and peer at ports.
func rule(peer policy.Peer, ports ...policy.Port) policy.Rule {
	return policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{peer}, Ports: ports}
}

func side(rules ...policy.Rule) policy.Side { return policy.Side{Applies: true, Rules: rules} }

// standard is a NetworkPolicy for every pod of namespace shop.
func standard(name string, ingress, egress policy.Side) policy.Policy {
	return policy.Policy{
		Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name},
		Subject: policy.PodSet{Namespace: "shop", Pods: policy.Selector{All: true}},
		Ingress: ingress, Egress: egress,
	}
}

// wide is a policy for every pod of the cluster.
func wide(layer policy.Layer, priority int, name string, action ruleset.Action, peer policy.Peer) policy.Policy {
	r := rule(peer, anyPort)
	r.Action = action
	return policy.Policy{
		Ref: ruleset.Ref{Kind: "ClusterNetworkPolicy", Name: name}, Layer: layer, Priority: priority,
		Subject: policy.PodSet{Namespaces: policy.Selector{All: true}, Pods: policy.Selector{All: true}},
		Ingress: side(r), Egress: side(r),
	}
}

// show writes c as one line for each tier and rule.
func show(c ruleset.Chain) string {
	var b strings.Builder
	for _, t := range c.Tiers {
		fmt.Fprintf(&b, "%s %v\n", t.Name, t.Selected)
		for _, r := range t.Rules {
			fmt.Fprintf(&b, "  %s[%d] %s", r.Origin, r.Index, r.Action)
			for _, m := range r.Matches {
				peers := fmt.Sprint(m.Peers.Prefixes)
				if m.Peers.Any {
					peers = "anyone"
				}
				fmt.Fprintf(&b, " %s:%v", peers, m.Ports)
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "  else %s\n", t.Default)
	}
	fmt.Fprintf(&b, "else %s\n", c.Default)
	return b.String()
}

func TestChains(t *testing.T) {
	web, api := newPod("shop/web", "10.0.0.1", "fd00::1"), newPod("shop/api", "10.0.0.2", "::ffff:10.0.0.3")
	web.Ports = []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: 8080}, {Name: "http", Proto: ruleset.UDP, Port: 1}}
	api.Ports = []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: 80}, {Name: "admin", Proto: ruleset.TCP, Port: 8080}}
	node := addr("192.168.0.1", "::ffff:192.168.0.2", "fd00::f")
	tests := []struct {
		name     string
		policies []policy.Policy
		ingress  string
		egress   string
	}{
		{"a pod that nothing selects has no tiers", nil, "else Accept\n", "else Accept\n"},
		{"a policy without rules leaves the node and nobody else", []policy.Policy{standard("a", side(), policy.Side{})}, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
policy [shop/a]
  else Drop
else Accept
`, "else Accept\n"},
		{"rules stand by policy and index, also those with nobody behind them", []policy.Policy{
			standard("b", side(rule(inShop("api"), tcp(2), tcp(1), tcp(2))), policy.Side{}),
			standard("a", side(rule(inShop("ghost"), tcp(1)), policy.Rule{}, rule(block("10.0.0.0/8", "10.1.0.0/16"), anyPort)), policy.Side{}),
		}, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
policy [shop/a shop/b]
  shop/a[0] Accept []:[TCP 1]
  shop/a[1] Drop
  shop/a[2] Accept [10.0.0.0/8]:[any]
  shop/b[0] Accept [10.0.0.2/32 10.0.0.3/32]:[TCP 1 TCP 2]
  else Drop
else Accept
`, "else Accept\n"},
		{"a named port is the pod's for ingress and each peer's for egress", []policy.Policy{
			standard("a", side(rule(anyone, namedTCP("http"), tcp(9))), side(rule(anyone, namedTCP("http"), namedTCP("admin"), tcp(9)))),
		}, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
policy [shop/a]
  shop/a[0] Accept anyone:[TCP 9 TCP 8080]
  else Drop
else Accept
`, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
policy [shop/a]
  shop/a[0] Accept anyone:[TCP 9] [10.0.0.2/32 10.0.0.3/32]:[TCP 80] [10.0.0.1/32 10.0.0.2/32 10.0.0.3/32 fd00::1/128]:[TCP 8080]
  else Drop
else Accept
`},
		{"tiers stand in order and wide policies by priority, then name", []policy.Policy{
			wide(policy.Baseline, 0, "base", ruleset.Drop, anyone),
			wide(policy.Admin, 2, "late", ruleset.Drop, inShop("api")),
			wide(policy.Admin, 1, "b", ruleset.Pass, inShop("web")),
			wide(policy.Admin, 1, "a", ruleset.Accept, block("10.9.0.0/16")),
			standard("s", policy.Side{}, side(rule(anyone, tcp(80)))),
		}, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
admin [a b late]
  a[0] Accept [10.9.0.0/16]:[any]
  b[0] Pass [10.0.0.1/32 fd00::1/128]:[any]
  late[0] Drop [10.0.0.2/32 10.0.0.3/32]:[any]
  else Pass
baseline [base]
  base[0] Drop anyone:[any]
  else Pass
else Accept
`, `
node []
  own-node[0] Accept [192.168.0.1/32 192.168.0.2/32 fd00::f/128]:[any]
  else Pass
admin [a b late]
  a[0] Accept [10.9.0.0/16]:[any]
  b[0] Pass [10.0.0.1/32 fd00::1/128]:[any]
  late[0] Drop [10.0.0.2/32 10.0.0.3/32]:[any]
  else Pass
policy [shop/s]
  shop/s[0] Accept anyone:[TCP 80]
  else Drop
baseline [base]
  base[0] Drop anyone:[any]
  else Pass
else Accept
`},
		{"wide policies that drop nothing restrict nothing", []policy.Policy{wide(policy.Admin, 1, "a", ruleset.Accept, anyone)}, "else Accept\n", "else Accept\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rs := policy.New(policy.Snapshot{Pods: []policy.Pod{web, api}, Policies: tt.policies}).
				Compile(policy.Target{Pod: web, Addresses: web.Addresses, Node: node})
			if got, want := show(rs.Ingress), strings.TrimPrefix(tt.ingress, "\n"); got != want {
				t.Errorf("ingress:\n%swant:\n%s", got, want)
			}
			if got, want := show(rs.Egress), strings.TrimPrefix(tt.egress, "\n"); got != want {
				t.Errorf("egress:\n%swant:\n%s", got, want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	isolate := []policy.Policy{standard("a", side(), side())}
	shop := newPod("shop/web", "10.0.0.1")
	host := shop
	host.HostNetwork = true
	tests := []struct {
		name   string
		target policy.Target
		want   string // the ingress and egress tiers
	}{
		{"without a known node there is no node tier", policy.Target{Pod: shop}, "[policy] [policy]"},
		{"the node is admitted both ways", policy.Target{Pod: shop, Node: addr("192.168.0.1")}, "[node policy] [node policy]"},
		{"nodeEgress policy judges flows to the node", policy.Target{Pod: shop, Node: addr("192.168.0.1"), NodeEgressByPolicy: true}, "[node policy] [policy]"},
		{"policies never select a hostNetwork pod", policy.Target{Pod: host, Node: addr("192.168.0.1")}, "[] []"},
		{"a pod that the Snapshot does not hold is selected all the same", policy.Target{Pod: newPod("shop/new")}, "[policy] [policy]"},
		{"a pod of a namespace with a similar name is not", policy.Target{Pod: newPod("shop-web/web")}, "[] []"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rs := policy.New(policy.Snapshot{Policies: isolate}).Compile(tt.target)
			if got := fmt.Sprint(tierNames(rs.Ingress), " ", tierNames(rs.Egress)); got != tt.want {
				t.Errorf("tiers %s, want %s", got, tt.want)
			}
		})
	}
}

func tierNames(c ruleset.Chain) []string {
	names := []string{}
	for _, t := range c.Tiers {
		names = append(names, t.Name)
	}
	return names
}

func TestAddressesAreCanonical(t *testing.T) {
	rs := policy.New(policy.Snapshot{}).Compile(policy.Target{
		Addresses: addr("fd00::1", "::ffff:10.0.0.1", "10.0.0.1"),
		Adopted:   ruleset.AdoptedTCP,
	})
	if got, want := fmt.Sprint(rs.Addresses, rs.Adopted), fmt.Sprint(addr("10.0.0.1", "fd00::1"), ruleset.AdoptedTCP); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// E1: what is joined with a separator can be cut elsewhere.
func TestNamesDontRunTogether(t *testing.T) {
	a, b := newPod("ns1/deny-me-x", "10.0.0.1"), newPod("me-ns1/deny", "10.0.0.2")
	w := policy.New(policy.Snapshot{Pods: []policy.Pod{a, b, newPod("ab/c", "10.0.0.3"), newPod("a/bc", "10.0.0.4"), newPod("a/b.c", "10.0.0.5")}})
	for path, want := range map[string]string{
		"ns1/deny-me-x": "10.0.0.1", "me-ns1/deny": "10.0.0.2", "ab/c": "10.0.0.3", "a/bc": "10.0.0.4", "a/b.c": "10.0.0.5", "a/c": "",
	} {
		ns, name, _ := strings.Cut(path, "/")
		p, ok := w.Pod(ns, name)
		if ok != (want != "") || ok && p.Addresses[0].String() != want {
			t.Errorf("%s is %+v, want the pod at %q", path, p, want)
		}
	}
	// Selectors that differ only in where a value ends are two.
	first := policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{"a,b"}}}}
	second := policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{"a", "b"}}}}
	pods := []policy.Pod{newPod("shop/a", "10.0.0.1"), newPod("shop/a,b", "10.0.0.2")}
	in := func(s policy.Selector) policy.Peer {
		return policy.Peer{Pods: policy.PodSet{Namespace: "shop", Pods: s}}
	}
	rs := policy.New(policy.Snapshot{Pods: pods, Policies: []policy.Policy{
		standard("p", side(rule(in(first), tcp(1)), rule(in(second), tcp(2))), policy.Side{}),
	}}).Compile(policy.Target{Pod: pods[0]})
	if got, want := fmt.Sprint(rs.Ingress.Tiers[0].Rules[0].Matches, rs.Ingress.Tiers[0].Rules[1].Matches),
		"[{{false [10.0.0.2/32]} [TCP 1]}] [{{false [10.0.0.1/32]} [TCP 2]}]"; got != want {
		t.Errorf("peers are %s, want %s", got, want)
	}
}

// A hundred pods of a node share the memory of peers they have in common.
func TestEqualPeersAreOneSlice(t *testing.T) {
	pods := []policy.Pod{newPod("shop/a", "10.0.0.1"), newPod("shop/b", "10.0.0.2")}
	w := policy.New(policy.Snapshot{Pods: pods, Policies: []policy.Policy{
		standard("p", side(rule(inShop("a"), tcp(1))), side(rule(inShop("a"), namedTCP("x"), tcp(1)))),
		standard("q", side(policy.Rule{Peers: []policy.Peer{inShop("a"), inShop("a")}, Ports: []policy.Port{tcp(2)}}), policy.Side{}),
	}})
	var seen []*netip.Prefix
	for _, p := range pods {
		rs := w.Compile(policy.Target{Pod: p})
		for _, r := range append(rs.Ingress.Tiers[0].Rules, rs.Egress.Tiers[0].Rules...) {
			seen = append(seen, &r.Matches[0].Peers.Prefixes[0])
		}
	}
	for i, p := range seen {
		if len(seen) != 6 || p != seen[0] {
			t.Errorf("slice %d of %d is not the first one", i, len(seen))
		}
	}
}
