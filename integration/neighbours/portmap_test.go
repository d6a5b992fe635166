package neighbours

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/podwall/podwall/integration/lab"
)

// hostPolicy admits one host of the world, and the pod's friend.
const hostPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: mesh, name: app}
spec:
  podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 203.0.113.10/32}}, {ipBlock: {cidr: "2001:db8:113::10/128"}}, {podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 80}]
`

// Portmap makes a port of the node lead to the pod. Whoever comes from outside is
// judged as who it is. The pod itself comes back masqueraded, as its node, and
// with iptables so does every pod of the node: that passes (see the README).
func TestPortmap(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"iptables", "nftables"} {
		for _, first := range []string{"podwall", "portmap"} {
			t.Run(backend+" "+first+" first", func(t *testing.T) {
				t.Parallel()
				n := startNode(t, meshCast)
				app := addMapped(t, n, backend, first == "podwall")
				stranger := addPod(t, n, "other", "stranger")
				flows := mappedFlows(t, n, app, stranger, backend == "iptables")
				expectOpen(t, flows)
				must(t, n.WriteManifest(policyFile, hostPolicy))
				expect(t, flows)
				must(t, n.RemoveManifest(policyFile))
				expectOpen(t, flows)
			})
		}
	}
}

// addMapped adds a pod whose port 80 is port 8088 of the node.
func addMapped(t *testing.T, n *lab.Node, backend string, podwallFirst bool) *lab.Sandbox {
	t.Helper()
	portmap := map[string]any{
		"type": "portmap", "snat": true, "backend": backend,
		"runtimeConfig": map[string]any{"portMappings": []any{
			map[string]any{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"},
		}},
	}
	net := n.Network().WithChain(n.Podwall(), portmap)
	if !podwallFirst {
		net = n.Network().WithChain(portmap, n.Podwall())
	}
	net.Hairpin = true
	app, err := n.NewSandbox("mesh", "app")
	must(t, err)
	t.Cleanup(func() { _ = app.Delete() })
	must(t, n.Add(t.Context(), net, app, "eth0"))
	serve(t, app.Netns, app.Addrs, 80)
	return app
}

func mappedFlows(t *testing.T, n *lab.Node, app, stranger *lab.Sandbox, masqueraded bool) []lab.Expectation {
	t.Helper()
	var all []lab.Expectation
	for _, a := range []struct {
		v6                   bool
		uplink, host, denied string
	}{{false, lab.Uplink4.String(), "203.0.113.10", "203.0.113.77"}, {true, lab.Uplink6.String(), "2001:db8:113::10", "2001:db8:113::77"}} {
		host, denied, uplink := netip.MustParseAddr(a.host), netip.MustParseAddr(a.denied), netip.MustParseAddr(a.uplink)
		must(t, n.AddWorld(host, denied))
		add := func(pass bool, name string, from *lab.Netns, source, to netip.Addr, port uint16) {
			at := netip.AddrPortFrom(to, port)
			all = append(all, lab.Expectation{Name: fmt.Sprintf("%s to %s", name, at), Pass: pass,
				Flow: lab.Flow{From: from, Source: source, Proto: "tcp", To: at}})
		}
		add(true, "the admitted host", n.World, host, uplink, 8088)
		add(false, "another host", n.World, denied, uplink, 8088)
		add(false, "another host, directly", n.World, denied, app.Addr(a.v6), 80)
		add(true, "the pod, to itself (hairpin)", app.Netns, netip.Addr{}, uplink, 8088)
		add(masqueraded, "another pod of the node", stranger.Netns, netip.Addr{}, uplink, 8088)
		add(false, "the same pod, directly", stranger.Netns, netip.Addr{}, app.Addr(a.v6), 80)
	}
	return all
}
