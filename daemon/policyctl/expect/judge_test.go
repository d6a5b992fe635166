package expect

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// shop is a cluster where web may ask api for 8080 and nobody may ask db. Pods
// dual and api-6 have addresses of both families; api-6 admits dual by IPv6 only.
// Behind svc/shop/mixed are db, which refuses, and free, which does not.
func shop() policy.Snapshot {
	web := policy.Peer{Pods: named("web")}
	six := policy.Peer{Block: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}}
	return policy.Snapshot{
		Pods: []policy.Pod{
			pod("web", "10.0.0.1"), pod("api", "10.0.0.2"), pod("db", "10.0.0.3"), pod("free", "10.0.0.4"), pod("new"),
			pod("dual", "10.0.0.8", "fd00::8"), pod("api-6", "10.0.0.9", "fd00::9"),
		},
		Services: []policy.Service{
			{Namespace: "shop", Name: "mixed", Addresses: addrs("10.96.0.1"), Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 80, NodePort: 30080}}},
			{Namespace: "shop", Name: "headless", Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 80}}},
			{Namespace: "shop", Name: "closed", Addresses: addrs("10.96.0.2"), Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 80}}},
		},
		Slices: []policy.EndpointSlice{
			slice("mixed", "10.0.0.3", "10.0.0.4"), slice("headless", "10.0.0.3", "10.0.0.4"), slice("closed", "10.0.0.2", "10.0.0.3"),
		},
		Policies: []policy.Policy{
			ingress("api", "api", web), ingress("deny-api", "api"), ingress("db", "db"), ingress("six", "api-6", six),
		},
	}
}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func named(app string) policy.PodSet {
	return policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{app}}}}}
}

func pod(name string, addresses ...string) policy.Pod {
	return policy.Pod{Namespace: "shop", Name: name, Labels: policy.Labels{"app": name}, Addresses: addrs(addresses...)}
}

func slice(service string, addresses ...string) policy.EndpointSlice {
	return policy.EndpointSlice{Namespace: "shop", Name: service, Service: service,
		Ports:     []policy.EndpointPort{{Proto: ruleset.TCP, Port: 8080}},
		Endpoints: []policy.Endpoint{{Addresses: addrs(addresses...), Ready: true}}}
}

// ingress is a policy that admits peers to port 8080 of the pods named app.
func ingress(name, app string, peers ...policy.Peer) policy.Policy {
	p := policy.Policy{
		Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name},
		Subject: named(app),
		Ingress: policy.Side{Applies: true},
	}
	if len(peers) > 0 {
		p.Ingress.Rules = []policy.Rule{{Action: ruleset.Accept, Peers: peers, Ports: []policy.Port{{Ports: ruleset.Ports{Proto: ruleset.TCP, First: 8080, Last: 8080}}}}}
	}
	return p
}

func TestJudge(t *testing.T) {
	tests := []struct{ name, entry, want string }{
		{"what is allowed, as expected", "from: shop/web, to: shop/api, expect: allow", ""},
		{"what is denied, as expected", "from: shop/free, to: shop/api, expect: deny", ""},
		{"what is allowed, though a deny is expected", "from: shop/web, to: shop/api, expect: deny", "is allowed"},
		{"what is denied, though it should pass", "from: shop/free, to: shop/api, expect: allow", "is denied"},
		{"the rule's policy is the one that allows", "from: shop/web, to: shop/api, expect: allow, because: shop/api", ""},
		{"a policy that only isolates allows nothing", "from: shop/web, to: shop/api, expect: allow, because: shop/deny-api", "is so, but not because of shop/deny-api"},
		{"each that isolates denies", "from: shop/free, to: shop/api, expect: deny, because: shop/deny-api", ""},
		{"another policy does not", "from: shop/free, to: shop/api, expect: deny, because: shop/db", "is so, but not because of shop/db"},
		{"no policy decides where none selects", "from: shop/db, to: shop/free, expect: allow, because: shop/api", "is so, but not because of shop/api"},
		{"a pod without an address is not denied", "from: shop/web, to: shop/new, expect: deny", "can't exist, whatever policies say"},
		{"nor is it allowed", "from: shop/new, to: shop/api, expect: allow", "can't exist, whatever policies say"},
		{"a service that serves no such port denies nothing", "from: shop/web, to: svc/shop/mixed, expect: deny", "can't exist, whatever policies say"},
		{"nor do families that never meet", "from: 'fd00::1', to: shop/db, expect: deny", "can't exist, whatever policies say"},
		{"one family denied is not both", "from: shop/dual, to: shop/api-6, expect: deny", "is allowed to fd00::9, one of several"},
		{"nor allowed", "from: shop/dual, to: shop/api-6, expect: allow", "is denied"},
		{"one address is one flow", "from: shop/dual, to: 10.0.0.9, expect: deny", ""},
		{"one endpoint that refuses is not all", "from: shop/web, to: svc/shop/mixed, port: 80, expect: deny", "is allowed to 10.0.0.4:8080, one of several"},
		{"also at the virtual address itself", "from: shop/web, to: 10.96.0.1, port: 80, expect: deny", "is allowed to 10.0.0.4:8080, one of several"},
		{"also behind a headless service", "from: shop/web, to: svc/shop/headless, expect: deny", "is allowed to 10.0.0.4, one of several"},
		{"all endpoints that refuse are", "from: shop/free, to: svc/shop/closed, port: 80, expect: deny", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := results(t, tt.entry)
			if r[0].Missed != tt.want {
				t.Errorf("%s: missed %q, want %q\n%+v", tt.entry, r[0].Missed, tt.want, r[0].Explanation)
			}
		})
	}
}

// results judges one entry, at port 8080 if it names none.
func results(t *testing.T, entry string) []Result {
	t.Helper()
	if !strings.Contains(entry, "port: ") {
		entry += ", port: 8080"
	}
	list, err := Parse("f", []byte("- {"+entry+"}"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewCluster(shop()).Judge(list[0])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestJudgeKnowsItsNames(t *testing.T) {
	list, err := Parse("f", []byte("- {from: [shop/web, shop/wep], to: svc/shop/mixd, port: 80, expect: allow, because: shop/apy}"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `f: entry 1, line 1: field from: pod shop/wep: not found; did you mean shop/web?
f: entry 1, line 1: field to: service shop/mixd: not found; did you mean shop/mixed?
f: entry 1, line 1: field because: policy shop/apy: not found; did you mean shop/api?`
	if r, err := NewCluster(shop()).Judge(list[0]); err == nil || err.Error() != want || r != nil {
		t.Errorf("Judge = %v, %v; want %s", r, err, want)
	}
}
