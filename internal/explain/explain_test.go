package explain_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// shop is a cluster where web, caged and agent may ask api, and nobody else may,
// and caged may ask only api. No policy selects web, batch, free and api-2.
func shop() policy.Snapshot {
	return policy.Snapshot{
		Nodes: []policy.Node{{Name: "node-a", Addresses: addrs("10.1.0.1")}, {Name: "node-b", Addresses: addrs("10.1.0.2")}},
		Pods: []policy.Pod{
			pod("web", "10.0.0.1"), pod("api", "10.0.0.2"), pod("api-2", "10.0.0.3"), pod("db", "10.0.0.4"),
			pod("batch", "10.0.0.5"), pod("caged", "10.0.0.6"), pod("bad", "10.0.0.7"),
			pod("dual", "10.0.0.8", "fd00::8"), pod("dual-2", "10.0.0.9", "fd00::9"), pod("six", "fd00::6"),
			pod("new"), pod("twin-a", "10.0.0.99"), pod("twin-b", "10.0.0.99"), pod("free", "10.0.0.20"),
			{Namespace: "shop", Name: "agent", Node: "node-b", HostNetwork: true},
			{Namespace: "shop", Name: "job", Addresses: addrs("10.0.0.1"), Done: true},
		},
		Services: []policy.Service{
			service("api", 80, 30080, "10.96.0.1"), service("mixed", 80, 0, "10.96.0.2"), service("empty", 80, 0, "10.96.0.3"),
			service("waiting", 80, 0, "10.96.0.4"), service("abroad", 80, 0, "10.96.0.5"), service("headless", 80, 0), service("alias", 80, 0),
			service("self", 80, 0, "10.96.0.6"), service("caged", 80, 0, "10.96.0.7"),
		},
		Slices: []policy.EndpointSlice{
			slice("api", true, "10.0.0.2"), slice("mixed", true, "10.0.0.2", "10.0.0.3"), slice("waiting", false, "10.0.0.2"),
			slice("abroad", true, "198.51.100.7"), slice("headless", true, "10.0.0.2", "10.0.0.3"), slice("self", true, "10.0.0.6"),
			slice("caged", true, "10.0.0.2", "10.0.0.6"),
		},
		Policies: []policy.Policy{
			isolate("default-deny", "api", "db", "dual-2"),
			standard("api", "api", policy.Side{}, side(accept(8080, "web", "caged", "agent"))),
			standard("caged", "caged", side(accept(8080, "api")), policy.Side{}),
			standard("dual", "dual-2", policy.Side{}, policy.Side{Applies: true, Rules: []policy.Rule{{
				Action: ruleset.Accept, Ports: tcp(80),
				Peers: []policy.Peer{{Block: []netip.Prefix{netip.MustParsePrefix("10.0.0.8/32")}}}}}}),
			broken("bad"),
		},
	}
}

func TestExplain(t *testing.T) {
	const nobodys = "no policy selects shop/web for egress"
	const accepted = "NetworkPolicy shop/api ingress[0] accepts TCP 8080 from 2 peers"
	tests := []struct {
		name     string
		from, to string
		port     uint16
		verdict  string
		egress   string
		ingress  string
	}{
		{"an accepting rule is named with its peers", "shop/web", "shop/api", 8080, "Allow", nobodys, accepted},
		{"an address of a pod is that pod", "10.0.0.1", "10.0.0.2", 8080, "Allow", nobodys, accepted},
		{"isolation names all who isolate and the flow", "shop/web", "shop/api", 9090, "Deny", nobodys,
			"isolated by shop/api, shop/default-deny; no rule accepts TCP 9090 from shop/web"},
		{"the wrong peer is denied", "shop/batch", "shop/api", 8080, "Deny", "no policy selects shop/batch for egress",
			"isolated by shop/api, shop/default-deny; no rule accepts TCP 8080 from shop/batch"},
		{"egress isolates too", "shop/caged", "shop/db", 8080, "Deny",
			"isolated by shop/caged; no rule accepts TCP 8080 to shop/db",
			"isolated by shop/default-deny; no rule accepts TCP 8080 from shop/caged"},
		{"a stranger has no firewall", "192.0.2.1", "shop/free", 80, "Allow",
			"192.0.2.1 is no pod of this cluster: podwall has no rules there", "no policy selects shop/free for ingress"},
		{"nor have two strangers", "192.0.2.1", "192.0.2.2", 80, "Allow",
			"192.0.2.1 is no pod of this cluster: podwall has no rules there", "192.0.2.2 is no pod of this cluster: podwall has no rules there"},
		{"the own node always reaches its pods", "10.1.0.1", "shop/api", 9090, "Allow",
			"10.1.0.1 is an address of node node-a: podwall has no rules there", "10.1.0.1 is the own node of shop/api, which always reaches it"},
		{"another node does not", "10.1.0.2", "shop/api", 9090, "Deny",
			"10.1.0.2 is an address of node node-b: podwall has no rules there",
			"isolated by shop/api, shop/default-deny; no rule accepts TCP 9090 from 10.1.0.2"},
		{"a hostNetwork pod has its node's address and no firewall", "shop/agent", "shop/api", 8080, "Deny",
			"shop/agent is on its node's network: podwall has no rules there",
			"isolated by shop/api, shop/default-deny; no rule accepts TCP 8080 from shop/agent"},
		{"pods reach their own node", "shop/caged", "10.1.0.1", 10250, "Allow",
			"10.1.0.1 is the own node of shop/caged, which it always reaches", "10.1.0.1 is an address of node node-a: podwall has no rules there"},
		{"a pod reaches itself", "shop/caged", "10.0.0.6", 1, "Allow",
			"shop/caged always reaches itself, over loopback", "shop/caged always reaches itself, over loopback"},
		{"a pod without an address can't be judged", "shop/web", "shop/new", 80, "Deny",
			"shop/new has no address yet: there is no flow to judge", "shop/new has no address yet: there is no flow to judge"},
		{"a finished pod has no network", "shop/job", "shop/api", 80, "Deny",
			"shop/job has ended: it has no network any more", "shop/job has ended: it has no network any more"},
		{"a broken policy says what is wrong with it", "shop/web", "shop/bad", 80, "Deny", nobodys,
			"isolated by shop/bad; no rule accepts TCP 80 from shop/web; shop/bad can't be honoured and admits nobody: spec.ingress[0].ports[0].port: 70000 is no port"},
		{"one family denied denies the pods, and is named", "shop/dual", "shop/dual-2", 80, "Deny",
			"no policy selects shop/dual for egress",
			"IPv6: isolated by shop/default-deny, shop/dual; no rule accepts TCP 80 from shop/dual"},
		{"only families that both ends have are judged", "10.0.0.8", "shop/dual-2", 80, "Allow",
			"no policy selects shop/dual for egress", "NetworkPolicy shop/dual ingress[0] accepts TCP 80 from 1 peer"},
		{"ends without a common family can't meet", "shop/web", "shop/six", 80, "Deny",
			"shop/web has only IPv4 and shop/six only IPv6: they share no family of addresses",
			"shop/web has only IPv4 and shop/six only IPv6: they share no family of addresses"},

		{"a service is judged at its endpoints' port", "shop/web", "svc/shop/api", 80, "Allow", nobodys, "shop/api (10.0.0.2:8080): " + accepted},
		{"a virtual address is its service", "shop/web", "10.96.0.1", 80, "Allow", nobodys, "shop/api (10.0.0.2:8080): " + accepted},
		{"one endpoint that refuses denies the service", "shop/batch", "svc/shop/mixed", 80, "Deny", "no policy selects shop/batch for egress",
			"1 of 2 endpoints refuse; shop/api (10.0.0.2:8080): isolated by shop/api, shop/default-deny; no rule accepts TCP 8080 from shop/batch"},
		{"all endpoints that accept allow it", "shop/web", "svc/shop/mixed", 80, "Allow", nobodys,
			"all 2 endpoints accept; shop/api (10.0.0.2:8080): " + accepted},
		{"egress to a service is egress to its endpoints", "shop/caged", "svc/shop/api", 80, "Allow",
			"every endpoint of svc/shop/api is allowed; shop/api (10.0.0.2:8080): NetworkPolicy shop/caged egress[0] accepts TCP 8080 to 1 peer",
			"shop/api (10.0.0.2:8080): " + accepted},
		{"an endpoint in the way of egress is named", "shop/caged", "svc/shop/mixed", 80, "Deny",
			"svc/shop/mixed leads to 2 endpoints and shop/api-2 (10.0.0.3:8080) is in the way: isolated by shop/caged; no rule accepts TCP 8080 to shop/api-2",
			"all 2 endpoints accept; shop/api (10.0.0.2:8080): " + accepted},
		{"a pod is never in its own way", "shop/caged", "svc/shop/caged", 80, "Allow",
			"every endpoint of svc/shop/caged is allowed; shop/api (10.0.0.2:8080): NetworkPolicy shop/caged egress[0] accepts TCP 8080 to 1 peer",
			"all 2 endpoints accept; shop/api (10.0.0.2:8080): " + accepted},
		{"a service of the pod alone is the pod", "shop/caged", "svc/shop/self", 80, "Allow",
			"every endpoint of svc/shop/self is allowed; shop/caged (10.0.0.6:8080): shop/caged always reaches itself, over loopback",
			"shop/caged (10.0.0.6:8080): shop/caged always reaches itself, over loopback"},
		{"a service without endpoints is closed", "shop/caged", "svc/shop/empty", 80, "Deny",
			"svc/shop/empty has no endpoint for TCP 80 that a rule could accept; isolated by shop/caged",
			"svc/shop/empty has no ready endpoint for TCP 80: nobody answers"},
		{"endpoints that are not ready do not answer", "shop/web", "svc/shop/waiting", 80, "Deny", nobodys,
			"svc/shop/waiting has no ready endpoint for TCP 80: nobody answers"},
		{"an endpoint outside the cluster has no firewall", "shop/web", "svc/shop/abroad", 80, "Allow", nobodys,
			"198.51.100.7:80: 198.51.100.7 is no pod of this cluster: podwall has no rules there"},
		{"a headless service is its endpoints, at the port that is asked for", "shop/batch", "svc/shop/headless", 8080, "Deny",
			"no policy selects shop/batch for egress",
			"10.0.0.2: isolated by shop/api, shop/default-deny; no rule accepts TCP 8080 from shop/batch"},
		{"a service that stands for nothing leads nowhere", "shop/web", "svc/shop/alias", 80, "Deny",
			"svc/shop/alias has neither an address nor a ready endpoint: there is nothing to connect to",
			"svc/shop/alias has neither an address nor a ready endpoint: there is nothing to connect to"},
		{"a port that a service does not have leads nowhere", "shop/web", "10.96.0.1", 81, "Deny", nobodys,
			"svc/shop/api does not serve TCP 81; it serves TCP 80"},
		{"a node port leads to the endpoints", "shop/caged", "10.1.0.1", 30080, "Allow",
			"10.1.0.1 is the own node of shop/caged, which it always reaches", "shop/api (10.0.0.2:8080): " + accepted},
		{"another node's node port is named", "shop/caged", "10.1.0.2", 30080, "Allow",
			"every endpoint of svc/shop/api is allowed; shop/api (10.0.0.2:8080): NetworkPolicy shop/caged egress[0] accepts TCP 8080 to 1 peer",
			"10.1.0.2 is the node port of svc/shop/api on node node-b: which endpoint gets it, and from which address, is that node's affair"},
		{"a service's name in DNS is the service", "shop/web", "api.shop.svc.cluster.local", 80, "Allow", nobodys,
			"shop/api (10.0.0.2:8080): " + accepted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := api.ExplainRequest{From: tt.from, To: tt.to, Port: tt.port, Protocol: ruleset.TCP}
			got, err := explain.Explain(policy.New(shop()), req, explain.Options{Node: "node-a"})
			if err != nil {
				t.Fatal(err)
			}
			want := []string{tt.verdict, tt.egress, tt.ingress}
			if diff := cmp.Diff(want, []string{got.Verdict, got.Egress.Reason, got.Ingress.Reason}); diff != "" {
				t.Errorf("%s to %s port %d (-want +got):\n%s", tt.from, tt.to, tt.port, diff)
			}
			if both := got.Egress.Verdict == explain.Allow && got.Ingress.Verdict == explain.Allow; both != (got.Verdict == explain.Allow) {
				t.Errorf("verdict is %s, egress's %s, ingress's %s", got.Verdict, got.Egress.Verdict, got.Ingress.Verdict)
			}
		})
	}
}

// Between pods the verdict is what the two compiled chains decide, and nothing
// else, on every pair of addresses of one family.
func TestVerdictIsTheChains(t *testing.T) {
	w := policy.New(shop())
	rules := func(p policy.Pod) ruleset.RuleSet {
		return w.Compile(policy.Target{Pod: p, Addresses: p.Addresses, Node: addrs("10.1.0.1")})
	}
	allowed := 0
	for _, from := range shop().Pods {
		for _, to := range shop().Pods {
			if from.HostNetwork || to.HostNetwork || from.Done || to.Done || from.Name == to.Name {
				continue
			}
			for _, port := range []uint16{80, 8080} {
				want, met := true, false
				for _, f := range from.Addresses {
					for _, a := range to.Addresses {
						if f.BitLen() == a.BitLen() {
							met = true
							want = want && rules(from).Egress.Decide(a, ruleset.TCP, port).Action == ruleset.Accept &&
								rules(to).Ingress.Decide(f, ruleset.TCP, port).Action == ruleset.Accept
						}
					}
				}
				req := api.ExplainRequest{From: "shop/" + from.Name, To: "shop/" + to.Name, Port: port, Protocol: ruleset.TCP}
				got, err := explain.Explain(w, req, explain.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if (got.Verdict == explain.Allow) != (want && met) {
					t.Errorf("%s to %s port %d: %s, but the chains accept: %t", req.From, req.To, port, got.Verdict, want && met)
				}
				if want && met {
					allowed++
				}
			}
		}
	}
	if allowed < 50 || allowed > 250 {
		t.Errorf("%d flows are allowed: the cluster no longer has both kinds", allowed)
	}
}

func TestOpinionNamesWhoDecided(t *testing.T) {
	ask := func(from, to string, port uint16) api.Explanation {
		t.Helper()
		ex, err := explain.Explain(policy.New(shop()), api.ExplainRequest{From: from, To: to, Port: port, Protocol: ruleset.TCP}, explain.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return ex
	}
	index := 0
	got, want := ask("shop/web", "shop/api", 8080).Ingress, api.Opinion{
		Verdict: "Allow", End: "shop/api", Tier: ruleset.TierPolicy,
		Policy: &ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "api"}, Rule: &index,
		Reason: "NetworkPolicy shop/api ingress[0] accepts TCP 8080 from 2 peers",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an accepting rule (-want +got):\n%s", diff)
	}
	got, want = ask("shop/caged", "svc/shop/mixed", 80).Egress, api.Opinion{
		Verdict: "Deny", End: "shop/caged", Tier: ruleset.TierService,
		Isolated: []ruleset.Ref{{Kind: "NetworkPolicy", Namespace: "shop", Name: "caged"}},
		Reason: "svc/shop/mixed leads to 2 endpoints and shop/api-2 (10.0.0.3:8080) is in the way: " +
			"isolated by shop/caged; no rule accepts TCP 8080 to shop/api-2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an endpoint in the way (-want +got):\n%s", diff)
	}
}

func TestNodeEgressByPolicyIsSeen(t *testing.T) {
	req := api.ExplainRequest{From: "shop/caged", To: "10.1.0.1", Port: 10250, Protocol: ruleset.TCP}
	got, err := explain.Explain(policy.New(shop()), req, explain.Options{NodeEgressByPolicy: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := "isolated by shop/caged; no rule accepts TCP 10250 to 10.1.0.1"; got.Egress.Reason != want {
		t.Errorf("egress to the own node: got %q, want %q", got.Egress.Reason, want)
	}
}

func TestAddressesOfTheNodeCount(t *testing.T) {
	req := api.ExplainRequest{From: "10.0.0.254", To: "shop/api", Port: 9090, Protocol: ruleset.TCP}
	opts := explain.Options{Node: "node-a", NodeAddresses: addrs("10.0.0.254")} // the bridge's, which no manifest names
	got, err := explain.Explain(policy.New(shop()), req, opts)
	if err != nil {
		t.Fatal(err)
	}
	if want := "10.0.0.254 is the own node of shop/api, which always reaches it"; got.Ingress.Reason != want {
		t.Errorf("ingress from the bridge: got %q, want %q", got.Ingress.Reason, want)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name     string
		from, to string
		is       error
		want     string
	}{
		{"a misspelt pod suggests the right one", "shop/wep", "shop/api", api.ErrNotFound, "pod shop/wep: not found; did you mean shop/web?"},
		{"a wrong namespace suggests the pod elsewhere", "default/web", "shop/api", api.ErrNotFound, "pod default/web: not found; did you mean shop/web?"},
		{"a pod like no other suggests nothing", "shop/zzzzzzzz", "shop/api", api.ErrNotFound, "pod shop/zzzzzzzz: not found"},
		{"a misspelt service suggests services", "shop/web", "svc/shop/mixxed", api.ErrNotFound, "service shop/mixxed: not found; did you mean shop/mixed?"},
		{"an address of two pods needs a name", "shop/web", "10.0.0.99", api.ErrInvalid, "10.0.0.99: is the address of shop/twin-a and shop/twin-b at this moment, name the pod"},
		{"a service opens nothing", "svc/shop/api", "shop/web", api.ErrInvalid, "from: svc/shop/api: a service opens no connections, name one of its pods"},
		{"a block is no end", "10.0.0.0/8", "shop/web", api.ErrInvalid, `from: end "10.0.0.0/8": want a single address, not a block`},
		{"a bare name is no end", "shop/web", "api", api.ErrInvalid, `to: end "api": want namespace/pod, an address, or svc/namespace/name`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := explain.Explain(policy.New(shop()), api.ExplainRequest{From: tt.from, To: tt.to, Port: 80, Protocol: ruleset.TCP}, explain.Options{})
			if !errors.Is(err, tt.is) || err.Error() != tt.want {
				t.Errorf("explain %s to %s:\n got %v\nwant %s", tt.from, tt.to, err, tt.want)
			}
		})
	}
}

// The helpers below are the nouns of shop. A pod's label app is its name.

func addrs(list ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func pod(name string, addresses ...string) policy.Pod {
	return policy.Pod{Namespace: "shop", Name: name, Node: "node-a", Labels: policy.Labels{"app": name}, Addresses: addrs(addresses...)}
}

// service has one port that leads to 8080, or to 80 outside the cluster.
func service(name string, port, nodePort uint16, addresses ...string) policy.Service {
	return policy.Service{Namespace: "shop", Name: name, Addresses: addrs(addresses...),
		Ports: []policy.ServicePort{{Name: "http", Proto: ruleset.TCP, Port: port, NodePort: nodePort}}}
}

func slice(of string, ready bool, addresses ...string) policy.EndpointSlice {
	s := policy.EndpointSlice{Namespace: "shop", Name: of + "-1", Service: of,
		Ports: []policy.EndpointPort{{Name: "http", Proto: ruleset.TCP, Port: 8080}}}
	if of == "abroad" {
		s.Ports[0].Port = 80
	}
	for _, a := range addrs(addresses...) {
		s.Endpoints = append(s.Endpoints, policy.Endpoint{Addresses: []netip.Addr{a}, Ready: ready})
	}
	return s
}

func app(names ...string) policy.PodSet {
	return policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: names}}}}
}

func tcp(port uint16) []policy.Port {
	return []policy.Port{{Ports: ruleset.Ports{Proto: ruleset.TCP, First: port, Last: port}}}
}

func accept(port uint16, from ...string) policy.Rule {
	return policy.Rule{Action: ruleset.Accept, Ports: tcp(port), Peers: []policy.Peer{{Pods: app(from...)}}}
}

func side(rules ...policy.Rule) policy.Side { return policy.Side{Applies: true, Rules: rules} }

func standard(name, of string, egress, ingress policy.Side) policy.Policy {
	return policy.Policy{Ref: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name}, Subject: app(of), Ingress: ingress, Egress: egress}
}

func isolate(name string, of ...string) policy.Policy {
	p := standard(name, of[0], policy.Side{}, side())
	p.Subject = app(of...)
	return p
}

func broken(of string) policy.Policy {
	p := standard("bad", of, policy.Side{}, side())
	p.Broken = "spec.ingress[0].ports[0].port: 70000 is no port"
	return p
}

// An Explainer remembers rules, never answers.
func TestAnExplainerAnswersEachQuestionAsIfItWereTheFirst(t *testing.T) {
	x := explain.New(policy.New(shop()), explain.Options{})
	for range 2 {
		for _, from := range []string{"shop/web", "shop/batch", "shop/caged", "shop/dual", "10.1.0.1"} {
			for _, to := range []string{"shop/api", "shop/db", "shop/caged", "shop/dual-2", "svc/shop/mixed", "10.1.0.1"} {
				for _, port := range []uint16{80, 8080, 9090, 30080} {
					req := api.ExplainRequest{From: from, To: to, Port: port, Protocol: ruleset.TCP}
					want, err := explain.Explain(policy.New(shop()), req, explain.Options{})
					if err != nil {
						t.Fatal(err)
					}
					got, err := x.Explain(req)
					if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
						t.Errorf("%s to %s:%d: %v (-first +later):\n%s", from, to, port, err, diff)
					}
				}
			}
		}
	}
}
