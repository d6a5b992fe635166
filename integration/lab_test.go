package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/integration/lab/labtest"
	"github.com/podwall/podwall/internal/api"
)

func TestMain(m *testing.M) { labtest.Main(m, 8) }

// settling is how long the kernel may take to be as policy says.
const settling = 10 * time.Second

// newNode makes a node that lives as long as the test, without podwalld.
func newNode(t testing.TB, options ...lab.NodeOption) *lab.Node {
	t.Helper()
	return labtest.NewNode(t, options...)
}

// startNode makes a node with podwalld running.
func startNode(t testing.TB, manifests ...string) *lab.Node {
	t.Helper()
	n := newNode(t)
	for i, m := range manifests {
		must(t, n.WriteManifest(fmt.Sprintf("%d.yaml", i), m))
	}
	must(t, n.Start(t.Context()))
	return n
}

// addPod adds a pod that answers at ports 80 and 8080, until the test ends.
func addPod(t testing.TB, n *lab.Node, namespace, name string, addrs ...netip.Addr) *lab.Sandbox {
	t.Helper()
	return labtest.AddPod(t, n, namespace, name, []uint16{80, 8080}, addrs...)
}

// newSandbox makes a sandbox that no network is attached to.
func newSandbox(t testing.TB, n *lab.Node, namespace, name string) *lab.Sandbox {
	t.Helper()
	sb, err := n.NewSandbox(namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sb.Delete() })
	return sb
}

// serve answers inside a namespace until the test ends.
func serve(t testing.TB, ns *lab.Netns, addrs []netip.Addr, ports ...uint16) {
	t.Helper()
	labtest.Serve(t, ns, addrs, ports...)
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

// tcp is the flow from a pod to port 80 of another, over IPv4.
func tcp(from, to *lab.Sandbox, pass bool) lab.Expectation { return labtest.TCP(from, to, pass) }

// inspect returns what policyctl says about a pod's attachments.
func inspect(ctx context.Context, n *lab.Node, pod string) ([]api.Inspection, error) {
	out, err := n.Policyctl(ctx, "inspect", pod, "-o", "json")
	if err != nil {
		return nil, err
	}
	var many []api.Inspection
	if strings.HasPrefix(strings.TrimSpace(out), "[") {
		err = json.Unmarshal([]byte(out), &many)
	} else {
		var one api.Inspection
		err = json.Unmarshal([]byte(out), &one)
		many = []api.Inspection{one}
	}
	if err != nil {
		return nil, fmt.Errorf("policyctl inspect %s: %w in %s", pod, err, out)
	}
	return many, nil
}

// enforced returns an error unless each attachment of a pod is enforced, and the
// kernel holds what it should.
func enforced(ctx context.Context, n *lab.Node, pod string, attachments int) error {
	all, err := inspect(ctx, n, pod)
	if err != nil {
		return err
	}
	if len(all) != attachments {
		return fmt.Errorf("pod %s has %d attachments, want %d", pod, len(all), attachments)
	}
	for _, i := range all {
		if i.Status.State != api.StateEnforced || !i.Kernel.InSync {
			return fmt.Errorf("pod %s is %s (%s), kernel in sync: %v %v %s",
				pod, i.Status.State, i.Status.Message, i.Kernel.InSync, i.Kernel.Differences, i.Kernel.Error)
		}
	}
	return nil
}

// attachments returns the daemon's, as keys.
func attachments(ctx context.Context, n *lab.Node) ([]api.PodSummary, error) {
	out, err := n.Policyctl(ctx, "get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var pods []api.PodSummary
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return nil, fmt.Errorf("policyctl get pods: %w in %s", err, out)
	}
	return pods, nil
}
