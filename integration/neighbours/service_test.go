package neighbours

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/netnstest"
)

// A serviceCase is one client, with an egress policy of its own, that dials a
// Service of its own.
type serviceCase struct {
	name      string
	endpoints string // as "good:8080 bad:9090!", of which ! is not ready
	allow     string // as "good/8080,9090 outside": what the client's policy names; "" is nothing, "-" is no policy
	dial      string // a word of serviceCase.target
	pass      bool
	source    bool // decided at the far end, by who dials: masqueraded clients look like their node, and pass
	proto     string
	sticky    bool
}

// The names of endpoints are those of stage.ends: good and bad are pods of this
// node, rgood and rbad of another; guarded admits only the client of the case
// "an endpoint that admits this client"; outside and outside2 are no pods.
var serviceCases = []serviceCase{
	{name: "every endpoint is allowed, at a port that is not the service's", endpoints: "good:8080 rgood:8080", allow: "good/8080", dial: "vip", pass: true},
	{name: "one endpoint on this node is not allowed", endpoints: "good:8080 bad:8080", allow: "good/8080", dial: "vip"},
	{name: "one endpoint on another node is not allowed", endpoints: "rgood:8080 rbad:8080", allow: "good/8080", dial: "vip"},
	{name: "the service's port is allowed and the endpoints' is not", endpoints: "good:8080", allow: "good/80", dial: "vip"},
	{name: "target ports that differ from pod to pod, both allowed", endpoints: "good:8080 rgood:9090", allow: "good/8080,9090", dial: "vip", pass: true},
	{name: "target ports that differ from pod to pod, one allowed", endpoints: "good:8080 rgood:9090", allow: "good/8080", dial: "vip"},
	{name: "a named port that each pod has its own number for", endpoints: "good:8080 rgood:9090", allow: "good/web", dial: "vip", pass: true},
	{name: "a name that means another port of one of the pods", endpoints: "good:8080 rgood:8080", allow: "good/web", dial: "vip"},
	{name: "an endpoint that is not ready does not count", endpoints: "good:8080 bad:8080!", allow: "good/8080", dial: "vip", pass: true},
	{name: "a block of virtual addresses opens nothing", endpoints: "good:8080", allow: "vips", dial: "vip"},
	{name: "every address is allowed, on the service's port alone", endpoints: "good:8080", allow: "any/80", dial: "vip"},
	{name: "no policy", endpoints: "bad:8080", allow: "-", dial: "vip", pass: true},
	{name: "over UDP, allowed", endpoints: "good:8080 rgood:8080", allow: "good", dial: "vip", pass: true, proto: "udp"},
	{name: "over UDP, one endpoint is not allowed", endpoints: "good:8080 bad:8080", allow: "good", dial: "vip", proto: "udp"},

	{name: "headless, the pod is allowed", endpoints: "good:8080", allow: "good/8080", dial: "end good 8080", pass: true},
	{name: "headless, the pod is not allowed", endpoints: "bad:8080", allow: "good/8080", dial: "end bad 8080"},
	{name: "ExternalName that leads to an allowed host", allow: "outside", dial: "end outside 8080", pass: true},
	{name: "ExternalName that leads to another host", allow: "outside", dial: "end outside2 8080"},

	{name: "an external address, endpoints allowed", endpoints: "good:8080 rgood:8080", allow: "good/8080", dial: "external", pass: true},
	{name: "an external address is allowed and the endpoints are not", endpoints: "bad:8080", allow: "externals", dial: "external"},
	{name: "a load balancer's address, endpoints allowed", endpoints: "good:8080 rgood:8080", allow: "good/8080", dial: "lb", pass: true},
	{name: "a load balancer's address is allowed and the endpoints are not", endpoints: "rbad:8080", allow: "externals", dial: "lb"},

	{name: "a node port of the own node, endpoints allowed", endpoints: "good:8080 rgood:8080", allow: "good/8080", dial: "nodeport uplink", pass: true},
	{name: "a node port of the own node, an endpoint not allowed", endpoints: "good:8080 bad:8080", allow: "good/8080", dial: "nodeport uplink"},
	{name: "a node port at the bridge, an endpoint not allowed", endpoints: "rbad:8080", allow: "good/8080", dial: "nodeport gateway"},
	{name: "a node port of another node, endpoints allowed", endpoints: "rgood:8080", allow: "good/8080", dial: "nodeport other", pass: true},
	{name: "another node is allowed and what is behind its node port is not", endpoints: "rbad:8080", allow: "other", dial: "nodeport other"},

	{name: "session affinity, every endpoint allowed", endpoints: "good:8080 rgood:8080", allow: "good/8080", dial: "vip", pass: true, sticky: true},
	{name: "session affinity, one endpoint not allowed", endpoints: "good:8080 bad:8080", allow: "good/8080", dial: "vip", sticky: true},
	{name: "the pod itself is behind it (hairpin)", endpoints: "self:8080", allow: "", dial: "vip", pass: true},
	{name: "the pod itself and one that is not allowed", endpoints: "self:8080 bad:8080", allow: "", dial: "vip"},
	{name: "a process of the own node is behind it", endpoints: "node:7070", allow: "", dial: "vip", pass: true},
	{name: "endpoints written by hand, allowed by block", endpoints: "outside:8080", allow: "outside/8080", dial: "vip", pass: true},
	{name: "endpoints written by hand, one not allowed", endpoints: "outside:8080 outside2:8080", allow: "outside/8080", dial: "vip"},

	{name: "an endpoint that admits this client", endpoints: "guarded:8080", allow: "-", dial: "vip", pass: true},
	{name: "an endpoint that admits another client", endpoints: "guarded:8080", allow: "-", dial: "vip", source: true},
}

// admitted is the number of the case whose client guarded admits.
func admitted() int {
	return slices.IndexFunc(serviceCases, func(c serviceCase) bool { return c.name == "an endpoint that admits this client" })
}

// A pair is one thing's addresses.
type pair [2]netip.Addr

// list is the pair as most functions want it.
func (p pair) list() []netip.Addr { return p[:] }

func pairOf(v4, v6 string) pair { return pair{netip.MustParseAddr(v4), netip.MustParseAddr(v6)} }

// The addresses of case i. All fit into one byte, with room for twice as many
// cases.
func clientOf(i int) pair {
	return pairOf(fmt.Sprintf("10.1.0.%d", 100+i), fmt.Sprintf("fd00:1::1:%d", i))
}
func vipOf(i int) pair {
	return pairOf(fmt.Sprintf("10.96.0.%d", i+1), fmt.Sprintf("fd00:96::%d", i+1))
}
func externalOf(i int) pair {
	return pairOf(fmt.Sprintf("198.18.0.%d", i+1), fmt.Sprintf("2001:db8:18::%d", i+1))
}
func balancerOf(i int) pair {
	return pairOf(fmt.Sprintf("198.18.1.%d", i+1), fmt.Sprintf("2001:db8:19::%d", i+1))
}
func nodePortOf(i int) uint16 { return uint16(30000 + i) }

// A stage is a node, what is around it, and a client for each case.
type stage struct {
	*lab.Node
	ends    map[string]pair
	clients []*lab.Sandbox
}

// names of the ends that are pods, with the label they are known by.
var backends = []struct {
	name, label string
	at          pair
	remote      bool
	web         uint16 // the port it calls web
}{
	{"good", "good", pairOf("10.1.0.51", "fd00:1::51"), false, 8080},
	{"bad", "bad", pairOf("10.1.0.52", "fd00:1::52"), false, 8080},
	{"guarded", "guarded", pairOf("10.1.0.53", "fd00:1::53"), false, 8080},
	{"rgood", "good", pairOf("10.1.1.21", "fd00:1:1::21"), true, 9090},
	{"rbad", "bad", pairOf("10.1.1.22", "fd00:1:1::22"), true, 9090},
}

var otherNode = pairOf("198.51.100.7", "2001:db8:51::7")

// newStage makes everything but policies and what the node translates. With local
// the virtual addresses are the node's own, as IPVS needs them.
func newStage(t *testing.T, local bool) *stage {
	t.Helper()
	s := &stage{ends: map[string]pair{
		"outside": pairOf("203.0.113.10", "2001:db8:113::10"), "outside2": pairOf("203.0.113.77", "2001:db8:113::77"),
		"node": {lab.Uplink4, lab.Uplink6}, "uplink": {lab.Uplink4, lab.Uplink6}, "gateway": {lab.Gateway4, lab.Gateway6},
		"other": otherNode,
	}}
	for _, b := range backends {
		s.ends[b.name] = b.at
	}
	s.Node = newNode(t, s.manifests())
	if local {
		bind(t, s.Netns, s.virtual())
	}
	must(t, s.Start(t.Context()))
	for _, name := range []string{"rgood", "rbad", "outside", "outside2", "other"} {
		must(t, s.AddWorld(s.ends[name].list()...))
	}
	for _, name := range []string{"rgood", "rbad", "outside", "outside2"} {
		serve(t, s.World, s.ends[name].list(), 8080, 9090)
	}
	serve(t, s.Netns, s.ends["node"].list(), 7070)
	for _, b := range backends {
		if !b.remote {
			s.addPod(t, "back", b.name, b.at)
		}
	}
	for i := range serviceCases {
		s.clients = append(s.clients, s.addPod(t, "client", fmt.Sprintf("c%d", i), clientOf(i)))
	}
	otherNodes().program(t, s.World, s.frontends(otherNode))
	return s
}

func (s *stage) addPod(t *testing.T, namespace, name string, at pair) *lab.Sandbox {
	t.Helper()
	sb, err := s.NewSandbox(namespace, name)
	must(t, err)
	t.Cleanup(func() { _ = sb.Delete() })
	net := s.Network()
	net.Hairpin = true
	must(t, s.Add(t.Context(), net, sb, "eth0", at.list()...))
	serve(t, sb.Netns, sb.Addrs, 8080, 9090)
	return sb
}

// virtual returns every address that stands for a Service.
func (s *stage) virtual() []netip.Addr {
	var all []netip.Addr
	for i := range serviceCases {
		for _, p := range []pair{vipOf(i), externalOf(i), balancerOf(i)} {
			all = append(all, p.list()...)
		}
	}
	return all
}

// An endpoint is one of a case's.
type endpoint struct {
	at    pair
	port  uint16
	ready bool
}

func (s *stage) endpoints(i int) []endpoint {
	var all []endpoint
	for word := range strings.FieldsSeq(serviceCases[i].endpoints) {
		name, port, _ := strings.Cut(strings.TrimSuffix(word, "!"), ":")
		n, err := strconv.ParseUint(port, 10, 16)
		at, ok := s.ends[name]
		if name == "self" {
			at, ok = clientOf(i), true
		}
		if err != nil || !ok {
			panic(fmt.Sprintf("endpoint %q of case %d", word, i))
		}
		all = append(all, endpoint{at, uint16(n), !strings.HasSuffix(word, "!")})
	}
	return all
}

// frontends is what a node with these addresses translates.
func (s *stage) frontends(nodes ...pair) []frontend {
	var all []frontend
	for i, c := range serviceCases {
		for f := range 2 {
			fe := frontend{proto: c.protocol(), sticky: c.sticky}
			for _, e := range s.endpoints(i) {
				if e.ready {
					fe.to = append(fe.to, netip.AddrPortFrom(e.at[f], e.port))
				}
			}
			for _, p := range []pair{vipOf(i), externalOf(i), balancerOf(i)} {
				fe.at = netip.AddrPortFrom(p[f], 80)
				all = append(all, fe)
			}
			for _, n := range nodes {
				fe.at, fe.masquerade = netip.AddrPortFrom(n[f], nodePortOf(i)), true
				all = append(all, fe)
			}
		}
	}
	return all
}

func (c serviceCase) protocol() string {
	if c.proto != "" {
		return c.proto
	}
	return "tcp"
}

// target is where the client of case i dials, in a family.
func (s *stage) target(i, family int) netip.AddrPort {
	words := strings.Fields(serviceCases[i].dial)
	switch words[0] {
	case "vip":
		return netip.AddrPortFrom(vipOf(i)[family], 80)
	case "external":
		return netip.AddrPortFrom(externalOf(i)[family], 80)
	case "lb":
		return netip.AddrPortFrom(balancerOf(i)[family], 80)
	case "nodeport":
		return netip.AddrPortFrom(s.ends[words[1]][family], nodePortOf(i))
	case "end":
		port, err := strconv.ParseUint(words[2], 10, 16)
		if at, ok := s.ends[words[1]]; ok && err == nil {
			return netip.AddrPortFrom(at[family], uint16(port))
		}
	}
	panic("nobody knows " + serviceCases[i].dial)
}

// flows are those of all cases, as they should be once their policies stand.
func (s *stage) flows(tr translator) []lab.Expectation {
	var all []lab.Expectation
	for i, c := range serviceCases {
		for family := range 2 {
			to := s.target(i, family)
			all = append(all, lab.Expectation{
				Name: fmt.Sprintf("%s (%s)", c.name, to), Pass: c.pass || (c.source && tr.masqueradeAll),
				Flow: lab.Flow{From: s.clients[i].Netns, Proto: c.protocol(), To: to},
			})
		}
	}
	return all
}

// A virtual address is open to a pod that may reach all that is behind it,
// whichever way the node translates: every case, all at once, without policies,
// with them, and without again.
func TestServices(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("addresses of the node %v", local), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, local)
			for _, tr := range translators {
				if tr.local == local {
					t.Run(tr.name, func(t *testing.T) { s.judged(t, tr) })
				}
			}
		})
	}
}

func (s *stage) judged(t *testing.T, tr translator) {
	tr.program(t, s.Netns, s.frontends(s.ends["uplink"], s.ends["gateway"]))
	defer tr.program(t, s.Netns, nil)
	flows := s.flows(tr)
	expectOpen(t, flows)
	must(t, s.WriteManifest(policyFile, policies()))
	expect(t, flows)
	must(t, s.RemoveManifest(policyFile))
	expectOpen(t, flows)
}

// An address with nothing behind it is the node's to refuse, as long as the pod
// may go anywhere. Where it may not, the answer is podwall's silence: nobody
// knows who will come to be behind the address.
func TestServiceWithoutEndpoints(t *testing.T) {
	t.Parallel()
	const manifests = `
apiVersion: v1
kind: Service
metadata: {namespace: back, name: empty}
spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:96::1:1"], ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: client, name: bound, labels: {app: bound}}
spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: client, name: free, labels: {app: free}}
spec: {containers: [{name: main}]}
`
	const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: client, name: bound}
spec: {podSelector: {matchLabels: {app: bound}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: client, name: free}
spec: {podSelector: {matchLabels: {app: free}}, policyTypes: [Egress], egress: [{}]}
`
	vips := pairOf("10.96.1.1", "fd00:96::1:1")
	for _, tr := range translators {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, manifests)
			if tr.local {
				bind(t, n.Netns, vips.list())
			}
			must(t, n.Start(t.Context()))
			tr.program(t, n.Netns, []frontend{
				{at: netip.AddrPortFrom(vips[0], 80), proto: "tcp"}, {at: netip.AddrPortFrom(vips[1], 80), proto: "tcp"}})
			bound, free, open := addPod(t, n, "client", "bound"), addPod(t, n, "client", "free"), addPod(t, n, "client", "open")
			for _, vip := range vips {
				mustBe(t, vip, netnstest.Refused, bound, free, open)
			}
			must(t, n.WriteManifest(policyFile, policies))
			for _, vip := range vips {
				mustBe(t, vip, netnstest.Silent, bound)
				mustBe(t, vip, netnstest.Refused, free, open)
			}
		})
	}
}

// secondSYN is longer than a socket waits before it sends SYN again. A refusal
// that comes back while the first one is still being sent does not end connect;
// the second does.
const secondSYN = 1500 * time.Millisecond

// mustBe waits until connections to port 80 of an address end so: refused or
// silent.
func mustBe(t *testing.T, to netip.Addr, want netnstest.Outcome, from ...*lab.Sandbox) {
	t.Helper()
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), secondSYN)
		defer cancel()
		results := make([]error, len(from))
		var all sync.WaitGroup
		for i, sb := range from {
			all.Go(func() {
				f := lab.Flow{From: sb.Netns, Proto: "tcp", To: netip.AddrPortFrom(to, 80)}
				if got := outcome(ctx, f); got != want {
					results[i] = fmt.Errorf("%s to %s is %s, want %s", sb.Pod(), to, got, want)
				}
			})
		}
		all.Wait()
		return errors.Join(results...)
	})
}

// outcome is how f ends before ctx does.
func outcome(ctx context.Context, f lab.Flow) netnstest.Outcome {
	c, err := f.Dial(ctx)
	var ne net.Error
	switch {
	case err == nil:
		_ = c.Close()
		return netnstest.Answered
	case errors.As(err, &ne) && ne.Timeout():
		return netnstest.Silent
	case errors.Is(err, syscall.ECONNREFUSED):
		return netnstest.Refused
	}
	return netnstest.Unreachable
}
