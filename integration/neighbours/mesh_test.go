package neighbours

import (
	"embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

//go:embed testdata
var testdata embed.FS

// The pods of meshCast: app has the proxy; friend and stranger have none.
const meshCast = `
apiVersion: v1
kind: Pod
metadata: {namespace: mesh, name: friend, labels: {app: friend}}
spec: {containers: [{name: main}]}
`

// meshPolicy is about app alone. To a pod in a mesh it says what it says to any
// other: ports are those that were dialled, ends are those far away.
const meshPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: mesh, name: app}
spec:
  podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 80}, {port: 5300, protocol: UDP}]
  egress:
  - to: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 80}, {port: 5300, protocol: UDP}]
`

// resolverPolicy adds the one resolver that the pod may ask.
const resolverPolicy = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: mesh, name: resolver}
spec:
  podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend]}]}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.53/32}}, {ipBlock: {cidr: "2001:db8:113::53/128"}}]
    ports: [{port: 53, protocol: UDP}]
`

var (
	resolvers = []netip.Addr{netip.MustParseAddr("203.0.113.53"), netip.MustParseAddr("2001:db8:113::53")}
	onward    = []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("::6")}
)

// A mesh is what an injector puts into a pod.
type mesh struct {
	file    string // of testdata/mesh
	prepare string // shell, before the rules
	proxy   proxy
	health  uint16 // a port that no rule redirects
}

var (
	istio = mesh{
		file:    "istio",
		prepare: "ip -6 addr add ::6/128 dev lo nodad",
		proxy:   proxy{uid: 1337, inbound: 15006, outbound: 15001, dns: 15053, resolver: resolvers, onward: onward},
		health:  15021,
	}
	istioTPROXY = mesh{
		file: "istio-tproxy",
		prepare: `for ip in "ip -4" "ip -6"; do
			$ip rule add fwmark 1337 lookup 133; $ip route add local default dev lo table 133; done`,
		proxy:  proxy{uid: 1337, inbound: 15006, outbound: 15001, transparent: true, mark: 1337},
		health: 15021,
	}
	linkerd = mesh{
		file:   "linkerd",
		proxy:  proxy{uid: 2102, inbound: 4143, outbound: 4140},
		health: 4191,
	}
)

// A tool puts a mesh's rules for one family into a namespace. Doing so again
// replaces them.
type tool struct {
	name, suffix string
	load         func(v6 bool) string // a shell command that reads the rules
}

var (
	iptablesNFT    = tool{"iptables-nft", ".iptables", restore("nft")}
	iptablesLegacy = tool{"iptables-legacy", ".iptables", restore("legacy")}
	native         = tool{"nft", ".nft", func(bool) string { return "nft -f -" }}
)

func restore(variant string) func(bool) string {
	return func(v6 bool) string {
		if v6 {
			return "ip6tables-" + variant + "-restore"
		}
		return "iptables-" + variant + "-restore"
	}
}

// rules is the mesh's file as one family needs it.
func (m mesh) rules(t testing.TB, w tool, v6 bool) string {
	t.Helper()
	b, err := testdata.ReadFile("testdata/mesh/" + m.file + w.suffix)
	must(t, err)
	i := 0
	words := []string{"{family}", "ip", "{ip}", "ip", "{lo}", "127.0.0.1/32"}
	if v6 {
		i, words = 1, []string{"{family}", "ip6", "{ip}", "ip6", "{lo}", "::1/128"}
	}
	words = append(words, "{onward}", onward[i].String(), "{resolver}", resolvers[i].String())
	return strings.NewReplacer(words...).Replace(string(b))
}

// load puts the mesh's rules into a namespace.
func (m mesh) load(t testing.TB, ns *lab.Netns, w tool) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		run(t, ns, fmt.Sprintf("%s <<'end'\n%s\nend", w.load(v6), m.rules(t, w, v6)))
	}
}

// A meshed is a node with a pod in a mesh, and others around it.
type meshed struct {
	*lab.Node
	mesh                  mesh
	tool                  tool
	app, friend, stranger *lab.Sandbox
}

// newMeshed adds the pods. The mesh's rules come before ADD, as a plugin earlier
// in the chain would bring them, or after it, as an init container does.
func newMeshed(t *testing.T, m mesh, w tool, before bool) *meshed {
	t.Helper()
	p := &meshed{Node: startNode(t, meshCast), mesh: m, tool: w}
	must(t, p.AddWorld(resolvers...))
	serve(t, p.World, resolvers, 53)
	p.friend = addPod(t, p.Node, "mesh", "friend", 80, 8080, 5300)
	p.stranger = addPod(t, p.Node, "other", "stranger", 80, 5300)
	var err error
	p.app, err = p.NewSandbox("mesh", "app")
	must(t, err)
	t.Cleanup(func() { _ = p.app.Delete() })
	inject := func() {
		run(t, p.app.Netns, m.prepare)
		m.load(t, p.app.Netns, w)
	}
	if before {
		inject()
	}
	must(t, p.Add(t.Context(), p.Network(), p.app, "eth0"))
	if !before {
		inject()
	}
	m.proxy.ns = p.app.Netns
	m.proxy.start(t)
	serve(t, p.app.Netns, p.app.Addrs, 80, 8080, 5300, m.health)
	return p
}

// flows are what meshPolicy speaks about; dns says whether the resolver's answer
// is allowed.
func (p *meshed) flows(dns bool) []lab.Expectation {
	var all []lab.Expectation
	for _, v6 := range []bool{false, true} {
		app, friend, stranger := p.app.Addr(v6), p.friend.Addr(v6), p.stranger.Addr(v6)
		add := func(pass bool, from *lab.Netns, name, proto string, to netip.Addr, port uint16) {
			at := netip.AddrPortFrom(to, port)
			all = append(all, lab.Expectation{
				Name: fmt.Sprintf("%s, %s to %s", name, proto, at), Pass: pass,
				Flow: lab.Flow{From: from, Proto: proto, To: at},
			})
		}
		add(true, p.friend.Netns, "friend to app", "tcp", app, 80)
		add(false, p.stranger.Netns, "stranger to app", "tcp", app, 80)
		add(false, p.friend.Netns, "friend to another port of app", "tcp", app, 8080)
		add(false, p.friend.Netns, "friend to the proxy itself", "tcp", app, p.mesh.proxy.inbound)
		add(false, p.friend.Netns, "friend to a port the mesh leaves alone", "tcp", app, p.mesh.health)
		add(true, p.Netns, "the node's probe through the mesh", "tcp", app, 80)
		add(true, p.Netns, "the node's probe past the mesh", "tcp", app, p.mesh.health)
		add(true, p.friend.Netns, "friend to app", "udp", app, 5300)
		add(false, p.stranger.Netns, "stranger to app", "udp", app, 5300)
		add(false, p.friend.Netns, "friend to app", "icmp", app, 0)

		add(true, p.app.Netns, "app to friend", "tcp", friend, 80)
		add(false, p.app.Netns, "app to another port of friend", "tcp", friend, 8080)
		add(false, p.app.Netns, "app to stranger", "tcp", stranger, 80)
		add(true, p.app.Netns, "app to friend", "udp", friend, 5300)
		add(false, p.app.Netns, "app to stranger", "udp", stranger, 5300)
		add(true, p.app.Netns, "app to itself", "tcp", app, 80)
		resolver := resolvers[0]
		if v6 {
			resolver = resolvers[1]
		}
		add(dns, p.app.Netns, "app to the resolver", "udp", resolver, 53)
	}
	return all
}

// A pod in a mesh is firewalled like any other, whichever mesh, whichever tool
// wrote its rules, and whoever came first.
func TestMeshes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mesh  mesh
		tools []tool
	}{
		{istio, []tool{iptablesNFT, iptablesLegacy, native}},
		{istioTPROXY, []tool{iptablesNFT, native}},
		{linkerd, []tool{iptablesNFT, native}},
	} {
		for _, w := range tt.tools {
			for _, when := range []string{"before", "after"} {
				t.Run(tt.mesh.file+" by "+w.name+" "+when+" ADD", func(t *testing.T) {
					t.Parallel()
					newMeshed(t, tt.mesh, w, when == "before").judged(t)
				})
			}
		}
	}
}

// judged tries all flows without policy, with it, and without it again.
func (p *meshed) judged(t *testing.T) {
	t.Helper()
	expectOpen(t, p.flows(true))
	must(t, p.WriteManifest(policyFile, meshPolicy))
	expect(t, p.flows(false))
	must(t, p.WriteManifest(policyFile, meshPolicy+resolverPolicy))
	expect(t, p.flows(true))
	must(t, p.RemoveManifest(policyFile))
	expectOpen(t, p.flows(true))
}

// watching is longer than podwalld takes from one look at the kernel to the next.
const watching = 6 * time.Second

// What a mesh changes in its own tables is none of podwall's business: no rule of
// ours is written, the epoch stays, and so do the verdicts.
func TestMeshMayChangeItsRules(t *testing.T) {
	t.Parallel()
	for _, w := range []tool{iptablesNFT, native} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			p := newMeshed(t, istio, w, false)
			expectOpen(t, p.flows(true))
			must(t, p.WriteManifest(policyFile, meshPolicy+resolverPolicy))
			expect(t, p.flows(true))

			seen := filepath.Join(t.TempDir(), "monitor")
			stop, err := p.app.Background(seen, "nft", "monitor")
			must(t, err)
			was := inspect(t, p.Node, p.app)
			for end := time.Now().Add(watching); time.Now().Before(end); {
				p.rewrite(t)
				expect(t, p.flows(true))
			}
			must(t, p.Check(t.Context(), p.Network(), p.app, "eth0"))
			is := inspect(t, p.Node, p.app)
			stop()
			if is.Status != was.Status {
				t.Errorf("after the mesh's changes %+v, want %+v", is.Status, was.Status)
			}
			b, err := os.ReadFile(seen)
			must(t, err)
			if !strings.Contains(string(b), "add chain") {
				t.Errorf("the mesh's changes were not seen: %s", b)
			}
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, "inet podwall") {
					t.Errorf("podwall's table was written to: %s", line)
				}
			}
		})
	}
}

// rewrite makes the mesh's tables anew, with another rule on the way.
func (p *meshed) rewrite(t *testing.T) {
	t.Helper()
	if p.tool.name == native.name {
		run(t, p.app.Netns, `for f in ip ip6; do
			nft add chain $f istio-proxy-nat more; nft add rule $f istio-proxy-nat more tcp dport 15090 return
			nft delete table $f istio-proxy-nat; nft delete table $f istio-proxy-raw; done`)
	} else {
		run(t, p.app.Netns, `for i in iptables-nft ip6tables-nft; do
			$i -t nat -N MORE; $i -t nat -A MORE -p tcp --dport 15090 -j RETURN; done`)
	}
	p.mesh.load(t, p.app.Netns, p.tool)
}
