package neighbours

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/integration/lab/labtest"
	"github.com/podwall/podwall/internal/api"
)

func TestMain(m *testing.M) { labtest.Main(m, 8) }

// settling is how long the kernel may take to be as policy says.
const settling = 10 * time.Second

// startNode makes a node with podwalld running, for as long as the test.
func startNode(t testing.TB, manifest string) *lab.Node {
	t.Helper()
	n := newNode(t, manifest)
	must(t, n.Start(t.Context()))
	return n
}

// newNode makes a node without podwalld.
func newNode(t testing.TB, manifest string) *lab.Node {
	t.Helper()
	n := labtest.NewNode(t)
	must(t, n.WriteManifest("cast.yaml", manifest))
	return n
}

// addPod adds a pod that answers at ports, until the test ends.
func addPod(t testing.TB, n *lab.Node, namespace, name string, ports ...uint16) *lab.Sandbox {
	t.Helper()
	return labtest.AddPod(t, n, namespace, name, ports)
}

// serve answers inside a namespace until the test ends.
func serve(t testing.TB, ns *lab.Netns, addrs []netip.Addr, ports ...uint16) {
	t.Helper()
	labtest.Serve(t, ns, addrs, ports...)
}

// run runs a shell command inside a namespace.
func run(t testing.TB, ns *lab.Netns, command string) string {
	t.Helper()
	out, err := ns.RunErr(command)
	must(t, err)
	return out
}

// must ends the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	labtest.Must(t, err)
}

// expect waits until flows are as they should be.
func expect(t testing.TB, flows []lab.Expectation) {
	t.Helper()
	labtest.Expect(t, settling, flows...)
}

// expectOpen waits until all flows pass, for nothing is proved by the silence of
// one that never did.
func expectOpen(t testing.TB, flows []lab.Expectation) {
	t.Helper()
	open := make([]lab.Expectation, len(flows))
	for i, f := range flows {
		f.Pass = true
		open[i] = f
	}
	expect(t, open)
}

// eventually waits until a fact holds.
func eventually(t testing.TB, fact func() error) {
	t.Helper()
	labtest.Eventually(t, settling, fact)
}

// inspect returns what the daemon says about a pod with one attachment, once the
// kernel holds it.
func inspect(t testing.TB, n *lab.Node, sb *lab.Sandbox) api.Inspection {
	t.Helper()
	var i api.Inspection
	eventually(t, func() error {
		out, err := n.Policyctl(t.Context(), "inspect", sb.Pod(), "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &i); err != nil {
			return fmt.Errorf("policyctl inspect %s: %w in %s", sb.Pod(), err, out)
		}
		if i.Status.State != api.StateEnforced || !i.Kernel.InSync {
			return fmt.Errorf("pod %s is %s (%s), kernel in sync: %v %v", sb.Pod(), i.Status.State, i.Status.Message, i.Kernel.InSync, i.Kernel.Differences)
		}
		return nil
	})
	return i
}

// policyFile is the manifest that tests write and remove.
const policyFile = "policy.yaml"
