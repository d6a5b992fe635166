package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/integration/lab"
)

// denyShop isolates the pods of namespace shop from everyone but shop/friend. Of
// web it is known that it has no capabilities to speak of, so that podwalld does
// not own its tables.
const denyShop = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec:
  podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend]}]}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: friend, labels: {app: friend}}
spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
`

// A neighbourhood is a node with two pods that nobody isolates: friend, whom
// denyShop admits, and stranger, whom it doesn't.
type neighbourhood struct {
	*lab.Node
	friend, stranger *lab.Sandbox
}

func newNeighbourhood(t *testing.T) *neighbourhood {
	t.Helper()
	n := &neighbourhood{Node: startNode(t, denyShop)}
	n.friend = addPod(t, n.Node, "shop", "friend")
	n.stranger = addPod(t, n.Node, "other", "stranger")
	return n
}

// guarded waits until sb admits the friend and not the stranger, over both
// families, and the daemon says that it is enforced.
func (n *neighbourhood) guarded(t *testing.T, sb *lab.Sandbox) {
	t.Helper()
	n.reached(t, sb, false)
	eventually(t, func() error { return enforced(t.Context(), n.Node, sb.Pod(), 1) })
}

// reached waits until sb admits the friend, and the stranger if that is wanted.
func (n *neighbourhood) reached(t *testing.T, sb *lab.Sandbox, stranger bool) {
	t.Helper()
	var flows []lab.Expectation
	for _, a := range sb.Addrs {
		for _, from := range []*lab.Sandbox{n.friend, n.stranger} {
			flows = append(flows, lab.Expectation{
				Name: from.Pod() + " to " + a.String(),
				Pass: from == n.friend || stranger,
				Flow: lab.Flow{From: from.Netns, Proto: "tcp", To: netip.AddrPortFrom(a, 80)},
			})
		}
	}
	expect(t, flows...)
}

// known returns the keys of the daemon's attachments of a pod.
func known(ctx context.Context, n *lab.Node, sb *lab.Sandbox) ([]string, error) {
	pods, err := attachments(ctx, n)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, p := range pods {
		if p.ContainerID == sb.ID {
			keys = append(keys, p.Interface)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// mustKnow waits until the daemon has exactly these attachments of a sandbox.
func mustKnow(t *testing.T, n *lab.Node, sb *lab.Sandbox, interfaces ...string) {
	t.Helper()
	eventually(t, func() error {
		keys, err := known(t.Context(), n, sb)
		if err == nil && !slices.Equal(keys, interfaces) {
			err = fmt.Errorf("the daemon has attachments %v of %s, want %v", keys, sb.Pod(), interfaces)
		}
		return err
	})
}

// mustFail ends the test unless err is a CNI error of this code.
func mustFail(t *testing.T, err error, code uint) {
	t.Helper()
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != code {
		t.Fatalf("error = %v, want CNI error %d", err, code)
	}
}

// tables returns the names of the nftables tables in a sandbox.
func tables(t *testing.T, sb *lab.Sandbox) string {
	t.Helper()
	out, err := sb.Output(t.Context(), "nft", "list", "tables")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryVersionOfTheSpecification(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			net := n.Network().WithVersion(version)
			sb := newSandbox(t, n.Node, "shop", "v"+strings.ReplaceAll(version, ".", "-"))
			must(t, n.Add(t.Context(), net, sb, "eth0"))
			if len(sb.Addrs) != 2 {
				t.Errorf("addresses = %v, want one of each family", sb.Addrs)
			}
			serve(t, sb.Netns, sb.Addrs, 80)
			n.guarded(t, sb)
			if version != "0.3.1" { // which has no CHECK
				must(t, n.Check(t.Context(), net, sb, "eth0"))
			}
			must(t, n.Del(t.Context(), net, sb, "eth0"))
			mustKnow(t, n.Node, sb)
		})
	}
}

func TestMiddleOfTheChain(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	tuning := map[string]any{"type": "tuning", "sysctl": map[string]string{"net.core.somaxconn": "321"}}
	net := n.Network().WithChain(n.Podwall(), tuning)
	sb := newSandbox(t, n.Node, "shop", "web")
	must(t, n.Add(t.Context(), net, sb, "eth0"))
	if out, err := sb.RunErr("cat /proc/sys/net/core/somaxconn"); err != nil || out != "321\n" {
		t.Errorf("somaxconn = %q (%v), want what the plugin after podwall sets", out, err)
	}
	serve(t, sb.Netns, sb.Addrs, 80)
	n.guarded(t, sb)
	must(t, n.Check(t.Context(), net, sb, "eth0"))
	must(t, n.Del(t.Context(), net, sb, "eth0"))
	mustKnow(t, n.Node, sb)
}

func TestAnyInterfaceName(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	sb := newSandbox(t, n.Node, "shop", "web")
	must(t, n.Add(t.Context(), n.Network(), sb, "net1"))
	serve(t, sb.Netns, sb.Addrs, 80)
	n.guarded(t, sb)
	mustKnow(t, n.Node, sb, "net1")
	must(t, n.Check(t.Context(), n.Network(), sb, "net1"))
}

func TestTwoAttachmentsOfOneSandbox(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	second := n.SecondNetwork()
	must(t, n.Add(t.Context(), second, n.friend, "net1"))
	must(t, n.Add(t.Context(), second, n.stranger, "net1"))

	sb := newSandbox(t, n.Node, "shop", "web")
	must(t, n.Add(t.Context(), n.Network(), sb, "eth0"))
	must(t, n.Add(t.Context(), second, sb, "net1"))
	if len(sb.Addrs) != 4 {
		t.Fatalf("addresses = %v, want two on each interface", sb.Addrs)
	}
	serve(t, sb.Netns, sb.Addrs, 80)
	n.reached(t, sb, false)
	eventually(t, func() error { return enforced(t.Context(), n.Node, sb.Pod(), 2) })
	mustKnow(t, n.Node, sb, "eth0", "net1")

	must(t, n.Del(t.Context(), second, sb, "net1"))
	mustKnow(t, n.Node, sb, "eth0")
	sb.Addrs = sb.Addrs[:2]
	n.guarded(t, sb)
}

func TestDelAgain(t *testing.T) {
	t.Parallel()
	n := startNode(t, denyShop)
	sb := addPod(t, n, "shop", "web")
	for _, when := range []string{"first", "again"} {
		if err := n.Del(t.Context(), n.Network(), sb, "eth0"); err != nil {
			t.Errorf("DEL, %s time: %v", when, err)
		}
		mustKnow(t, n, sb)
	}
	must(t, sb.Delete())
	if err := n.Del(t.Context(), n.Network(), sb, "eth0"); err != nil {
		t.Errorf("DEL of a sandbox that is gone: %v", err)
	}
}

func TestDelAfterTheNamespaceWentAway(t *testing.T) {
	t.Parallel()
	n := startNode(t, denyShop)
	sb, err := n.AddPod(t.Context(), "shop", "web")
	must(t, err)
	must(t, sb.Delete())
	must(t, n.Del(t.Context(), n.Network(), sb, "eth0"))
	mustKnow(t, n, sb)
}

// A node that crashes, or a runtime that forgets, leaves attachments without DEL.
func TestNamespaceThatGoesAwayIsForgotten(t *testing.T) {
	t.Parallel()
	n := startNode(t, denyShop)
	sb, err := n.AddPod(t.Context(), "shop", "web")
	must(t, err)
	mustKnow(t, n, sb, "eth0")
	must(t, sb.Delete())
	mustKnow(t, n, sb)
}

func TestDelWhileTheDaemonIsAway(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	sb := addPod(t, n.Node, "shop", "web")
	stays := addPod(t, n.Node, "shop", "stays")
	must(t, n.Kill())
	for range 2 {
		must(t, n.Del(t.Context(), n.Network(), sb, "eth0"))
	}
	must(t, n.Start(t.Context()))
	mustKnow(t, n.Node, sb)
	n.guarded(t, stays)
}

// A StatefulSet makes the pod again under its old name, and the runtime may be
// late with the old sandbox.
func TestLateDelOfAnOldSandbox(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	old := addPod(t, n.Node, "shop", "db-0")
	young := addPod(t, n.Node, "shop", "db-0")
	must(t, n.DelPod(t.Context(), old))
	mustKnow(t, n.Node, old)
	mustKnow(t, n.Node, young, "eth0")
	n.guarded(t, young)

	must(t, n.Kill())
	older := young
	young = addPodAfter(t, n, "shop", "db-0", func() { must(t, n.Del(t.Context(), n.Network(), older, "eth0")) })
	mustKnow(t, n.Node, older)
	n.guarded(t, young)
}

// addPodAfter restarts the daemon, after something was done without it, and adds
// a pod.
func addPodAfter(t *testing.T, n *neighbourhood, namespace, name string, without func()) *lab.Sandbox {
	t.Helper()
	without()
	must(t, n.Start(t.Context()))
	return addPod(t, n.Node, namespace, name)
}

// Names are joined with care: none of these is another's.
func TestNamesThatLookAlike(t *testing.T) {
	t.Parallel()
	n := startNode(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: ab, name: deny}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: ns1, name: deny}
spec: {podSelector: {matchLabels: {app: deny}}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: ns1, name: deny-me-x, labels: {app: deny}}
spec: {containers: [{name: main}]}
`)
	from := addPod(t, n, "other", "stranger")
	var flows []lab.Expectation
	for _, p := range []struct {
		namespace, name string
		open            bool
	}{
		{"ab", "c", false}, {"a", "bc", true}, {"a", "b.c", true},
		{"ns1", "deny-me-x", false}, {"me-ns1", "deny", true}, {"me-x-ns1", "deny", true},
	} {
		flows = append(flows, tcp(from, addPod(t, n, p.namespace, p.name), p.open))
	}
	expect(t, flows...)
}

// A table that somebody deleted is back at once: the daemon hears of it. CHECK
// agrees before, and as soon as it is.
func TestDeletedTableIsBackAtOnce(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	sb := addPod(t, n.Node, "shop", "web")
	n.guarded(t, sb)
	must(t, n.Check(t.Context(), n.Network(), sb, "eth0"))
	if out := tables(t, sb); !strings.Contains(out, "table inet podwall\n") {
		t.Fatalf("tables = %q, want inet podwall among them", out)
	}
	if _, err := sb.RunErr("nft delete table inet podwall"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return n.Check(t.Context(), n.Network(), sb, "eth0") })
	n.guarded(t, sb)
	log, err := os.ReadFile(n.LogFile())
	must(t, err)
	if log := string(log); !strings.Contains(log, "changed by somebody else") || !strings.Contains(log, "by=\"nft (process") {
		t.Error("podwalld's log does not say that nft changed its rules")
	}
}

func TestGCForgetsWhatNoLongerExists(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	gone, stays := addPod(t, n.Node, "shop", "gone"), addPod(t, n.Node, "shop", "stays")
	// libcni itself sends a DEL for what it remembers; here it forgot, too.
	must(t, forgetResult(n.Node, gone))
	must(t, n.GC(t.Context(), n.Network(), n.friend, n.stranger, stays))
	mustKnow(t, n.Node, gone)
	mustKnow(t, n.Node, stays, "eth0")
	n.guarded(t, stays)
}

// forgetResult removes libcni's cached result of a sandbox.
func forgetResult(n *lab.Node, sb *lab.Sandbox) error {
	files, err := filepath.Glob(filepath.Join(n.CNICache(), "results", "*"+sb.ID+"*"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("libcni remembers nothing of %s", sb.Pod())
	}
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func TestStatusSaysWhetherAddWouldWork(t *testing.T) {
	t.Parallel()
	n := startNode(t, denyShop)
	must(t, n.Status(t.Context(), n.Network()))
	must(t, n.Kill())
	mustFail(t, n.Status(t.Context(), n.Network()), 50)
	must(t, n.Start(t.Context()))
	must(t, n.Status(t.Context(), n.Network()))
}

func TestAddWhileTheDaemonIsAway(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	must(t, n.Kill())

	_, err := n.AddPod(t.Context(), "shop", "closed")
	mustFail(t, err, types.ErrTryAgainLater)

	open := n.Podwall()
	open["failurePolicy"] = "open"
	sb := newSandbox(t, n.Node, "shop", "open")
	must(t, n.Add(t.Context(), n.Network().WithChain(open), sb, "eth0"))
	serve(t, sb.Netns, sb.Addrs, 80)
	n.reached(t, sb, true)

	must(t, n.Start(t.Context()))
	n.guarded(t, addPod(t, n.Node, "shop", "closed"))
	n.guarded(t, sb) // the daemon finds it in libcni's cache
}

// Not every sandbox is Kubernetes'.
func TestAddWithoutKubernetesArguments(t *testing.T) {
	t.Parallel()
	n := startNode(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: deny}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: strays, name: deny}
spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}
`)
	from := addPod(t, n, "other", "stranger")
	entry := n.Podwall()
	entry["namespace"] = "strays"
	for name, net := range map[string]lab.Network{"default": n.Network(), "named": n.Network().WithChain(entry)} {
		sb := newSandbox(t, n, "", "")
		must(t, n.Add(t.Context(), net, sb, "eth0"))
		serve(t, sb.Netns, sb.Addrs, 80, 8080)
		other := tcp(from, sb, false)
		other.Name, other.To = name, netip.AddrPortFrom(sb.Addr(false), 8080)
		expect(t, tcp(from, sb, name == "named"), other)
		must(t, n.Check(t.Context(), net, sb, "eth0"))
		must(t, n.Del(t.Context(), net, sb, "eth0"))
		mustKnow(t, n, sb)
	}
}
