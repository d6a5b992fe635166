package integration

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// isolated isolates shop/web in both directions.
const isolated = `
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: friend, labels: {app: friend}}
spec: {containers: [{name: main}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
`

// befriend lets shop/web and shop/friend talk, whoever begins.
const befriend = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: befriend}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
  egress:
  - to: [{podSelector: {matchLabels: {app: friend}}}]
`

// An open flow that policy no longer allows stops, both ways at once, whoever
// opened it; the same flow goes on when policy allows it again.
func TestRevocationStopsOpenFlows(t *testing.T) {
	t.Parallel()
	n := startNode(t, isolated)
	must(t, n.WriteManifest("befriend.yaml", befriend))
	web, friend := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "friend")
	expect(t, tcp(friend, web, true), tcp(web, friend, true))
	talks := []*conversation{
		converse(t, "tcp", friend, web, 1000), converse(t, "tcp", web, friend, 1000),
		converse(t, "udp", friend, web, 1000), converse(t, "udp", web, friend, 1000),
	}
	for round := range 3 {
		start := time.Now()
		must(t, n.RemoveManifest("befriend.yaml"))
		for _, c := range talks {
			eventually(t, func() error { return c.silent(200 * time.Millisecond) })
		}
		for _, c := range talks {
			took := time.Unix(0, max(c.opener.last.Load(), c.other.last.Load())).Sub(start)
			t.Logf("round %d: %s: silent after %s", round, c.name, took.Round(time.Millisecond))
			if took > time.Second {
				t.Errorf("%s: stopped after %s, want less than a second", c.name, took)
			}
			if d := c.apart(); d > time.Second {
				t.Errorf("%s: one direction stopped %s after the other", c.name, d)
			}
			if err := c.silent(300 * time.Millisecond); err != nil {
				t.Error(err)
			}
		}
		must(t, n.WriteManifest("befriend.yaml", befriend))
		for _, c := range talks {
			eventually(t, c.alive)
		}
	}
}

// changes is how many times policy changes under load.
const changes = 1000

// While policy changes a thousand times, what every version of it allows loses
// no packet, and what every version denies gets none through: among old flows
// and new ones, into the pod and out of it.
func TestThousandChangesUnderLoad(t *testing.T) {
	t.Parallel()
	n := startNode(t, isolated)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	must(t, n.WriteManifest("change.yaml", change(rng, 0)))
	web, friend := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "friend")
	stranger := addPod(t, n, "other", "stranger")
	client := api.Client{Socket: n.Socket()}

	// What comes in does so over IPv4, what goes out over IPv6.
	inAt, outAt := netip.AddrPortFrom(web.Addr(false), 2000), netip.AddrPortFrom(friend.Addr(true), 2000)
	badInAt, badOutAt := netip.AddrPortFrom(web.Addr(false), 3000), netip.AddrPortFrom(stranger.Addr(true), 3000)
	in, out := openSink(t, web.Netns, inAt), openSink(t, friend.Netns, outAt)
	badIn, badOut := openSink(t, web.Netns, badInAt), openSink(t, stranger.Netns, badOutAt)
	expect(t, tcp(friend, web, true), tcp(web, friend, true), tcp(stranger, web, false), tcp(web, stranger, false))
	allowed := []*barrage{bombard(t, friend.Netns, inAt), bombard(t, web.Netns, outAt)}
	denied := []*barrage{bombard(t, stranger.Netns, badInAt), bombard(t, web.Netns, badOutAt)}
	old := []*conversation{converse(t, "tcp", friend, web, 1000), converse(t, "tcp", web, friend, 1000)}

	start := time.Now()
	last := revision(t, client, web)
	for i := 1; i <= changes; i++ {
		must(t, n.WriteManifest("change.yaml", change(rng, i)))
		last = nextRevision(t, client, web, last)
	}
	t.Logf("%d changes in %s", changes, time.Since(start).Round(time.Millisecond))
	for _, c := range old {
		if err := c.alive(); err != nil {
			t.Error(err)
		}
	}
	for _, b := range slices.Concat(allowed, denied) {
		b.halt()
	}
	for i, s := range []*sink{in, out} {
		b := allowed[i]
		sent, answered := b.end()
		t.Logf("allowed, to %s: %d sent, %d arrived, %d answered", b.to, sent, s.got.Load(), answered)
		if sent == 0 || s.got.Load() != sent || answered != sent {
			t.Error("want no loss")
		}
	}
	for i, s := range []*sink{badIn, badOut} {
		b := denied[i]
		sent, _ := b.end()
		t.Logf("denied, to %s: %d sent, %d arrived", b.to, sent, s.got.Load())
		if sent == 0 || s.got.Load() != 0 {
			t.Error("want none to arrive")
		}
	}
	// Nothing but policy was in the way of what was denied.
	must(t, n.RemoveManifest("change.yaml"))
	must(t, n.RemoveManifest("0.yaml"))
	denied = []*barrage{bombard(t, stranger.Netns, badInAt), bombard(t, web.Netns, badOutAt)}
	for i, s := range []*sink{badIn, badOut} {
		eventually(t, func() error {
			if s.got.Load() == 0 {
				return fmt.Errorf("without policy nothing arrives at %s either", denied[i].to)
			}
			return nil
		})
	}
	for _, b := range denied {
		b.halt()
	}
	for _, b := range denied {
		b.end()
	}
}

// nextRevision waits until another revision than last stands in a pod's kernel,
// and returns it.
func nextRevision(t *testing.T, c api.Client, sb *lab.Sandbox, last string) string {
	t.Helper()
	for end := time.Now().Add(settling); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if now := revision(t, c, sb); now != "" && now != last {
			return now
		}
	}
	t.Fatalf("a change is not in force after %s", settling)
	return ""
}

// revision is what the daemon says stands in a pod's kernel. It asks the socket
// itself: a thousand times policyctl would measure policyctl.
func revision(t *testing.T, c api.Client, sb *lab.Sandbox) string {
	t.Helper()
	var pods []api.PodSummary
	must(t, c.Call(t.Context(), api.VerbPods, nil, &pods, nil))
	for _, p := range pods {
		if p.ContainerID == sb.ID && p.Status.State == api.StateEnforced {
			return p.Status.Revision
		}
	}
	return ""
}

// change is the i-th version of a policy for shop/web. All let it talk with
// shop/friend, by one rule or another, and none with other/stranger. Rules come,
// go and change places; so do their ports and peers, among them single addresses
// and blocks, which the kernel keeps in different kinds of sets, and few or many
// rules, which are tried one by one or looked up by port.
func change(rng *rand.Rand, i int) string {
	friend := []string{
		`{podSelector: {matchLabels: {app: friend}}}`,
		`{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}`,
		`{podSelector: {}}`,
	}
	many := 1 + rng.IntN(3)
	if i%5 == 0 {
		many = 20
	}
	friends := rng.IntN(many)
	rules := ""
	for r := range many {
		peers := []string{fmt.Sprintf("{ipBlock: {cidr: 198.18.%d.%d/32}}", i/250, i%250)} // no two versions are the same
		if rng.IntN(2) == 0 {
			peers = append(peers, fmt.Sprintf("{ipBlock: {cidr: 198.19.%d.0/%d}}", rng.IntN(250), 24+rng.IntN(9)))
		}
		if rng.IntN(2) == 0 {
			peers = append(peers, fmt.Sprintf("{ipBlock: {cidr: \"2001:db8:%x::/%d\"}}", 1+rng.IntN(0xfff), 48+rng.IntN(81)))
		}
		first := 1 + rng.IntN(4000)
		ports := fmt.Sprintf("[{port: %d, endPort: %d}]", first, first+rng.IntN(60000))
		if r == friends {
			peers = append(peers, friend[rng.IntN(len(friend))])
			ports = []string{"[]", "[{protocol: TCP}, {port: 2000, protocol: UDP}]"}[rng.IntN(2)]
		}
		rules += fmt.Sprintf("  - PEERS: [%s]\n    ports: %s\n", strings.Join(peers, ", "), ports)
	}
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: change-%d}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
%s  egress:
%s`, rng.IntN(3), strings.ReplaceAll(rules, "PEERS", "from"), strings.ReplaceAll(rules, "PEERS", "to"))
}
