package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/integration/lab/labtest"
	"github.com/podwall/podwall/internal/api"
)

func TestMain(m *testing.M) {
	becomeOther()
	becomeSystemd()
	labtest.Main(m, 6)
}

// settling is how long everything may take to be right again.
const settling = 15 * time.Second

// shopOnly lets the pods of shop talk among themselves and with nobody else.
const shopOnly = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: shop-only}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {}}]}]
  egress: [{to: [{podSelector: {}}]}]
`

// openToAll lets everybody in.
const openToAll = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: open}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}
`

// A node is one with three pods: web and friend in shop, stranger in other.
type node struct {
	*lab.Node
	client                api.Client
	web, friend, stranger *lab.Sandbox
}

// newNode makes a node without podwalld and pods, until the test ends.
func newNode(t testing.TB, options ...lab.NodeOption) *node {
	t.Helper()
	l := labtest.NewNode(t, options...)
	must(t, l.WriteManifest("shop.yaml", shopOnly))
	return &node{Node: l, client: api.Client{Socket: l.Socket()}}
}

// start starts podwalld, and adds the pods.
func (n *node) start(t testing.TB) *node {
	t.Helper()
	must(t, n.Start(t.Context()))
	n.web, n.friend, n.stranger = n.add(t, "shop", "web"), n.add(t, "shop", "friend"), n.add(t, "other", "stranger")
	expect(t, n.flows()...)
	return n
}

// add adds a pod that answers at port 80, until the test ends.
func (n *node) add(t testing.TB, namespace, name string) *lab.Sandbox {
	t.Helper()
	return labtest.AddPod(t, n.Node, namespace, name, []uint16{80})
}

func (n *node) serve(t testing.TB, sb *lab.Sandbox) {
	t.Helper()
	labtest.Serve(t, sb.Netns, sb.Addrs, 80)
}

// bare adds a pod's interface without podwall: what a chain does before its turn.
// libcni forgets it, so that nothing is adopted.
func (n *node) bare(t testing.TB, namespace, name string) *lab.Sandbox {
	t.Helper()
	sb, err := n.NewSandbox(namespace, name)
	must(t, err)
	t.Cleanup(func() { _ = sb.Delete() })
	must(t, n.Add(t.Context(), n.Network().WithChain(), sb, "eth0"))
	must(t, os.Remove(filepath.Join(n.CNICache(), "results", "pods-"+sb.ID+"-eth0")))
	n.serve(t, sb)
	return sb
}

// plugin runs podwall alone, as a runtime would after the plugins before it, with
// other words of a command line before its own. An error holds what it printed.
func (n *node) plugin(ctx context.Context, verb string, sb *lab.Sandbox, before ...string) error {
	var ips []map[string]any
	for _, a := range sb.Addrs {
		ips = append(ips, map[string]any{"address": netip.PrefixFrom(a, a.BitLen()), "interface": 0})
	}
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "pods", "type": "podwall", "socket": n.Socket(),
		"prevResult": map[string]any{"cniVersion": "1.1.0", "ips": ips,
			"interfaces": []map[string]any{{"name": "eth0", "sandbox": sb.Path()}}},
	})
	if err != nil {
		return err
	}
	words := append(slices.Clone(before), n.Binary("podwall"))
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+sb.ID, "CNI_IFNAME=eth0", "CNI_NETNS="+sb.Path(), "CNI_PATH=/",
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", sb.Namespace, sb.Name, sb.UID))
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("podwall %s: %w: %s", verb, err, &out)
	}
	return nil
}

// tcp is the flow from a pod to port 80 of another.
func tcp(from, to *lab.Sandbox, pass bool) lab.Expectation { return labtest.TCP(from, to, pass) }

// flows are those that shopOnly speaks about, and what becomes of them.
func (n *node) flows(others ...*lab.Sandbox) []lab.Expectation {
	var all []lab.Expectation
	for _, sb := range append(others, n.web) {
		all = append(all, tcp(n.friend, sb, true), tcp(n.stranger, sb, false), tcp(sb, n.friend, true), tcp(sb, n.stranger, false))
	}
	return all
}

// knows waits until the daemon's attachments are the node's three pods' and those
// of others, each enforced and with the kernel in sync.
func (n *node) knows(t testing.TB, others ...*lab.Sandbox) {
	t.Helper()
	eventually(t, func() error { return n.exactly(t.Context(), others) })
}

func (n *node) exactly(ctx context.Context, others []*lab.Sandbox) error {
	var want []string
	for _, sb := range append(slices.Clone(others), n.web, n.friend, n.stranger) {
		want = append(want, sb.ID)
	}
	var pods []api.PodSummary
	if err := n.client.Call(ctx, api.VerbPods, nil, &pods, nil); err != nil {
		return err
	}
	for _, p := range pods {
		i := slices.Index(want, p.ContainerID)
		if i < 0 {
			return fmt.Errorf("attachment of %s, %.12s, is left over", p.Pod(), p.ContainerID)
		}
		want = slices.Delete(want, i, i+1)
		var all []api.Inspection
		if err := n.client.Call(ctx, api.VerbInspect, api.InspectRequest{Pod: p.ContainerID}, &all, nil); err != nil {
			return err
		}
		for _, i := range all {
			if i.Status.State != api.StateEnforced || !i.Kernel.InSync {
				return fmt.Errorf("%s is %s: %s; kernel: %v %s", p.Pod(), i.Status.State, i.Status.Message, i.Kernel.Differences, i.Kernel.Error)
			}
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("attachments %.12s are lost", want)
	}
	return nil
}

// status is the daemon's.
func (n *node) status(t testing.TB) api.Status {
	t.Helper()
	var st api.Status
	must(t, n.client.Call(t.Context(), api.VerbStatus, nil, &st, nil))
	return st
}

// state is what the daemon says of an attachment.
func (n *node) state(ctx context.Context, sb *lab.Sandbox) (api.AttachmentStatus, error) {
	var all []api.Inspection
	if err := n.client.Call(ctx, api.VerbInspect, api.InspectRequest{Pod: sb.ID}, &all, nil); err != nil {
		return api.AttachmentStatus{}, err
	}
	if len(all) != 1 {
		return api.AttachmentStatus{}, errors.New("want one attachment")
	}
	return all[0].Status, nil
}

// failsToStart launches podwalld and demands that it ends, with two words in what
// it says last.
func (n *node) failsToStart(t testing.TB, object, cause string, flags ...string) {
	t.Helper()
	must(t, n.Launch(flags...))
	eventually(t, func() error {
		if n.Running() {
			return fmt.Errorf("podwalld runs, want it to say %q", cause)
		}
		return nil
	})
	must(t, n.Kill()) // nothing but to forget it
	lines := strings.Split(strings.TrimSpace(n.LogTail()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "podwalld: ") || !strings.Contains(last, object) || !strings.Contains(last, cause) {
		t.Errorf("its last word is %s\nwant %q and %q in it", last, object, cause)
	}
}

// must ends the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	labtest.Must(t, err)
}

// expect waits until flows are as they should be.
func expect(t testing.TB, flows ...lab.Expectation) {
	t.Helper()
	labtest.Expect(t, settling, flows...)
}

// eventually waits until a fact holds.
func eventually(t testing.TB, fact func() error) {
	t.Helper()
	labtest.Eventually(t, settling, fact)
}

// refused demands an error that says all of some words.
func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it worked, want an error that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error = %v, want %q in it", err, w)
		}
	}
}
