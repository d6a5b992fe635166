package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// A bazaar is a scene with Services. Its client, on the first node, may speak to
// the pods that a policy names, and to nobody else; what it may do at the
// Services' addresses follows from that.
//
//	blue   node1  app=server color=blue   tcp and udp 8080 (web)
//	green  node2  app=server color=green  tcp and udp 8080 (web)
//	odd    node2  app=odd    color=odd    tcp and udp 9090 (web)
type bazaar struct {
	*scene
	family                   cluster.Family
	client, blue, green, odd cluster.Pod
}

// services asks at all addresses that Services have, in every family.
func services(t *testing.T, c *cluster.Cluster) {
	for _, f := range c.Families {
		t.Run(string(f), func(t *testing.T) {
			b := openBazaar(t, c, f)
			for _, test := range []struct {
				name string
				run  func(*bazaar, *testing.T)
			}{
				{"ClusterIP is open where all endpoints are, and closed otherwise", (*bazaar).clusterIP},
				{"UDP behind a ClusterIP", (*bazaar).udp},
				{"a Service of which one endpoint is forbidden is closed", (*bazaar).partly},
				{"a forbidden endpoint that comes closes the Service until it goes", (*bazaar).scaling},
				{"a named port that differs from pod to pod", (*bazaar).namedPorts},
				{"endpoints written by hand count, the selector does not", (*bazaar).byHand},
				{"external IP", (*bazaar).externalIP},
				{"load balancer's address", (*bazaar).loadBalancer},
				{"node port at its own node and at the other", (*bazaar).nodePort},
				{"headless: pods are met at their own addresses", (*bazaar).headless},
				{"no endpoints", (*bazaar).nobody},
				{"a pod reaches itself through its Service", (*bazaar).hairpin},
				{"session affinity", (*bazaar).affinity},
				{"the server's policy sees the true sender", (*bazaar).ingress},
				{"a sender from outside, at a node port that keeps addresses", (*bazaar).outside},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(b, t) })
			}
		})
	}
}

func openBazaar(t *testing.T, c *cluster.Cluster, f cluster.Family) *bazaar {
	s := newScene(t, c, "bazaar-"+strings.ToLower(string(f)))
	b := &bazaar{scene: s, family: f}
	pod := func(name, node, app string, port int) cluster.Pod {
		p := s.pod(name, node, map[string]string{"app": app, "color": name})
		p.Ports = map[string]int{"web": port}
		p.Args = []string{"serve", fmt.Sprintf("tcp/%d", port), fmt.Sprintf("udp/%d", port)}
		return p
	}
	b.client = pod("client", "node1", "client", 8080)
	b.blue = pod("blue", "node1", "server", 8080)
	b.green = pod("green", "node2", "server", 8080)
	b.odd = pod("odd", "node2", "odd", 9090)
	s.must(c.Pods(t.Context(), b.client, b.blue, b.green, b.odd))
	return b
}

// may restricts the client's egress to the pods and ports that the rule names,
// for the time of the test.
func (b *bazaar) may(t *testing.T, rule string) {
	t.Helper()
	b.apply(t, b.object("networking.k8s.io/v1", "NetworkPolicy", "client",
		`"spec": {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": [`+rule+`]}`))
}

// to is an egress rule for pods with a label.
func to(label, value string) string {
	return fmt.Sprintf(`{"to": [{"podSelector": {"matchLabels": {%q: %q}}}]}`, label, value)
}

func (b *bazaar) object(version, kind, name, rest string) string {
	return fmt.Sprintf(`{"apiVersion": %q, "kind": %q, "metadata": {"name": %q, "namespace": %q}, %s}`, version, kind, name, b.namespace, rest)
}

// service makes a Service for the time of the test, with one port 80 that leads
// to the pods' named port, and returns its address.
func (b *bazaar) service(t *testing.T, name, selector, more string) netip.AddrPort {
	t.Helper()
	if selector != "" {
		selector = `"selector": ` + selector + `, `
	}
	b.apply(t, b.object("v1", "Service", name, fmt.Sprintf(
		`"spec": {%s"ipFamilies": [%q], "ports": [{"name": "t", "port": 80, "targetPort": "web"}, {"name": "u", "protocol": "UDP", "port": 80, "targetPort": 8080}]%s}`,
		selector, b.family, more)))
	ips, err := b.ClusterIPs(t.Context(), b.namespace, name)
	if err != nil && !strings.Contains(more, "None") {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ips[b.family], 80)
}

// The selectors of Services.
const (
	servers = `{"app": "server"}`
)

// tcp is a flow of the client.
func (b *bazaar) tcp(to netip.AddrPort) flow { return flow{b.client, "tcp", to} }

// at is a pod's own address.
func (b *bazaar) at(t *testing.T, p cluster.Pod, port uint16) netip.AddrPort {
	t.Helper()
	all, err := b.Addresses(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(all[b.family], port)
}

func (b *bazaar) clusterIP(t *testing.T) {
	vip := b.service(t, "web", servers, "")
	b.reaches(t, b.tcp(vip)) // nobody forbids it yet: silence will mean something
	b.may(t, to("app", "server"))
	b.reaches(t, b.tcp(vip))
	b.denied(t, b.tcp(b.at(t, b.odd, 9090)))
	b.may(t, to("app", "odd"))
	b.denied(t, b.tcp(vip))
	b.reaches(t, b.tcp(b.at(t, b.odd, 9090)))
}

func (b *bazaar) udp(t *testing.T) {
	vip := b.service(t, "web", servers, "")
	b.may(t, to("app", "server"))
	b.reaches(t, flow{b.client, "udp", vip})
	b.may(t, to("app", "odd"))
	b.denied(t, flow{b.client, "udp", vip})
}

func (b *bazaar) partly(t *testing.T) {
	vip := b.service(t, "web", servers, "")
	b.reaches(t, b.tcp(vip))
	b.may(t, to("color", "green"))
	b.reaches(t, b.tcp(b.at(t, b.green, 8080)))
	for range 4 { // each of them might go to either
		b.denied(t, b.tcp(vip))
	}
	b.denied(t, b.tcp(b.at(t, b.blue, 8080)))
}

func (b *bazaar) scaling(t *testing.T) {
	vip := b.service(t, "web", servers, "")
	b.may(t, to("app", "server"))
	b.reaches(t, b.tcp(vip))
	b.label(t, b.odd, "app=server")
	b.may(t, to("color", "blue")+", "+to("color", "green"))
	b.denied(t, b.tcp(vip))
	b.label(t, b.odd, "app=odd")
	b.reaches(t, b.tcp(vip))
}

// label changes a pod's label.
func (b *bazaar) label(t *testing.T, p cluster.Pod, label string) {
	t.Helper()
	if _, err := b.Kubectl(t.Context(), "label", "--overwrite", "-n", p.Namespace, "pod", p.Name, label); err != nil {
		t.Fatal(err)
	}
}

func (b *bazaar) namedPorts(t *testing.T) {
	b.label(t, b.odd, "shop=both")
	b.label(t, b.blue, "shop=both")
	vip := b.service(t, "both", `{"shop": "both"}`, "")
	b.may(t, `{"to": [{"podSelector": {"matchLabels": {"shop": "both"}}}], "ports": [{"port": "web"}]}`)
	b.reaches(t, b.tcp(vip))
	b.may(t, `{"to": [{"podSelector": {"matchLabels": {"shop": "both"}}}], "ports": [{"port": 8080}]}`)
	b.denied(t, b.tcp(vip)) // blue's is 8080, odd's is not
	b.reaches(t, b.tcp(b.at(t, b.blue, 8080)))
}

func (b *bazaar) byHand(t *testing.T) {
	vip := b.service(t, "hand", "", "")
	slice := func(name string, a netip.AddrPort) string {
		return fmt.Sprintf(`{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": %q,
			"metadata": {"name": %q, "namespace": %q, "labels": {"kubernetes.io/service-name": "hand"}},
			"ports": [{"name": "t", "port": %d}], "endpoints": [{"addresses": [%q], "conditions": {"ready": true}}]}`,
			b.family, name, b.namespace, a.Port(), a.Addr())
	}
	b.apply(t, slice("hand", b.at(t, b.odd, 9090)))
	b.reaches(t, b.tcp(vip))
	b.may(t, to("app", "server"))
	b.denied(t, b.tcp(vip))
	b.may(t, to("app", "odd"))
	b.reaches(t, b.tcp(vip))
	// A selector that picks what is allowed is no way to what is not.
	vip = b.service(t, "mixed", servers, "")
	b.apply(t, strings.ReplaceAll(slice("mixed-hand", b.at(t, b.odd, 9090)), `"kubernetes.io/service-name": "hand"`, `"kubernetes.io/service-name": "mixed"`))
	b.may(t, to("app", "server"))
	b.denied(t, b.tcp(vip))
}

// spare is an address of the machines' network that nobody has.
func (b *bazaar) spare() netip.Addr {
	if b.family == cluster.IPv6 {
		return netip.MustParseAddr("fd00:77::200")
	}
	return netip.MustParseAddr("10.77.0.200")
}

func (b *bazaar) externalIP(t *testing.T) {
	b.service(t, "web", servers, fmt.Sprintf(`, "externalIPs": [%q]`, b.spare()))
	b.openAndClosed(t, netip.AddrPortFrom(b.spare(), 80))
}

func (b *bazaar) loadBalancer(t *testing.T) {
	b.service(t, "web", servers, `, "type": "LoadBalancer"`)
	status := fmt.Sprintf(`{"status": {"loadBalancer": {"ingress": [{"ip": %q}]}}}`, b.spare())
	if _, err := b.Kubectl(t.Context(), "patch", "service", "-n", b.namespace, "web", "--subresource=status", "--type=merge", "-p", status); err != nil {
		t.Fatal(err)
	}
	b.openAndClosed(t, netip.AddrPortFrom(b.spare(), 80))
}

// openAndClosed demands that an address of the Service web follows the policy.
func (b *bazaar) openAndClosed(t *testing.T, address netip.AddrPort) {
	t.Helper()
	b.reaches(t, b.tcp(address))
	b.may(t, to("app", "odd"))
	b.denied(t, b.tcp(address))
	b.may(t, to("app", "server"))
	b.reaches(t, b.tcp(address))
}

func (b *bazaar) nodePort(t *testing.T) {
	b.service(t, "web", servers, `, "type": "NodePort"`)
	port := b.nodePortOf(t, "web")
	t.Run("the other node's", func(t *testing.T) {
		b.openAndClosed(t, netip.AddrPortFrom(b.Nodes[1].Address(b.family), port))
	})
	t.Run("its own node's", func(t *testing.T) {
		b.openAndClosed(t, netip.AddrPortFrom(b.Nodes[0].Address(b.family), port))
	})
}

func (b *bazaar) nodePortOf(t *testing.T, name string) uint16 {
	t.Helper()
	out, err := b.Kubectl(t.Context(), "get", "service", "-n", b.namespace, name, "-o", "jsonpath={.spec.ports[0].nodePort}")
	var port uint16
	if err == nil {
		_, err = fmt.Sscan(out, &port)
	}
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (b *bazaar) headless(t *testing.T) {
	b.service(t, "headless", servers, `, "clusterIP": "None"`)
	b.apply(t, b.object("v1", "Service", "elsewhere", `"spec": {"type": "ExternalName", "externalName": "example.org"}`))
	b.may(t, to("color", "green"))
	b.reaches(t, b.tcp(b.at(t, b.green, 8080)))
	b.denied(t, b.tcp(b.at(t, b.blue, 8080)))
}

func (b *bazaar) nobody(t *testing.T) {
	vip := b.service(t, "nobody", `{"app": "nobody"}`, "")
	b.may(t, to("app", "server"))
	b.denied(t, b.tcp(vip))
}

func (b *bazaar) hairpin(t *testing.T) {
	vip := b.service(t, "self", `{"app": "client"}`, "")
	b.apply(t, b.object("networking.k8s.io/v1", "NetworkPolicy", "nothing",
		`"spec": {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Ingress", "Egress"]}`))
	b.denied(t, b.tcp(b.at(t, b.green, 8080)))
	if name, _ := b.reaches(t, b.tcp(vip)); name != "client" {
		t.Errorf("%s answered, want the client itself", name)
	}
}

func (b *bazaar) affinity(t *testing.T) {
	vip := b.service(t, "web", servers, `, "sessionAffinity": "ClientIP"`)
	b.may(t, to("app", "server"))
	first, _ := b.reaches(t, b.tcp(vip))
	for range 5 {
		if name, _ := b.reaches(t, b.tcp(vip)); name != first {
			t.Errorf("%s answered after %s", name, first)
		}
	}
	b.may(t, to("color", first)) // where this client is sent is not the Service's only end
	b.denied(t, b.tcp(vip))
}

func (b *bazaar) ingress(t *testing.T) {
	vip := b.service(t, "web", servers, "")
	own := b.at(t, b.client, 0).Addr()
	if _, seen := b.reaches(t, b.tcp(vip)); seen != own {
		t.Errorf("server saw %s, want the client's address %s", seen, own)
	}
	b.apply(t, b.object("networking.k8s.io/v1", "NetworkPolicy", "server", `"spec": {"podSelector": {"matchLabels": {"app": "server"}},
		"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}`))
	b.denied(t, flow{b.odd, "tcp", vip})
	b.reaches(t, b.tcp(vip))
}

func (b *bazaar) outside(t *testing.T) {
	b.service(t, "web", `{"color": "green"}`, `, "type": "NodePort", "externalTrafficPolicy": "Local"`)
	address := netip.AddrPortFrom(b.Nodes[1].Address(b.family), b.nodePortOf(t, "web"))
	ask := func(ctx context.Context) error {
		_, err := b.Control.Exec(ctx, b.Tool("probe"), "dial", "tcp/"+address.String())
		return err
	}
	if err := b.Until(t.Context(), "an answer from "+address.String(), ask); err != nil {
		t.Fatal(err)
	}
	policy := `"spec": {"podSelector": {"matchLabels": {"color": "green"}}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": %q}}]}]}`
	b.apply(t, b.object("networking.k8s.io/v1", "NetworkPolicy", "green", fmt.Sprintf(policy, netip.PrefixFrom(b.spare(), b.spare().BitLen()))))
	if err := b.Until(t.Context(), "silence", func(ctx context.Context) error {
		if ask(ctx) == nil {
			return fmt.Errorf("%s answers", address)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	world := b.Outside(b.family)
	b.apply(t, b.object("networking.k8s.io/v1", "NetworkPolicy", "green", fmt.Sprintf(policy, netip.PrefixFrom(world, world.BitLen()))))
	if err := b.Until(t.Context(), "an answer from "+address.String(), ask); err != nil {
		t.Error(err)
	}
}
