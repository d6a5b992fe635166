package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

const guestManifest = `
apiVersion: v1
kind: Pod
metadata: {namespace: vm, name: guest}
spec: {runtimeClassName: kata-qemu, containers: [{name: app}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: vm, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`

// A pod of Kata, whose traffic passes no rule in its namespace, does not start
// unless somebody says that it may.
func TestSandboxedPodIsRefused(t *testing.T) {
	t.Parallel()
	n := startNode(t, guestManifest)
	_, err := n.AddPod(t.Context(), "vm", "guest")
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code == types.ErrTryAgainLater || !strings.Contains(ce.Msg, "runtime class kata-qemu") {
		t.Fatalf("ADD of a pod of Kata: %v; want an error that names the class and is final", err)
	}
	if pods, err := attachments(t.Context(), n); err != nil || len(pods) != 0 {
		t.Errorf("after the refusal: %+v, %v", pods, err)
	}
	addPod(t, n, "vm", "ordinary")
}

// Where it may, it has its rules, and nobody calls it protected.
func TestSandboxedPodIsReported(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	must(t, n.WriteManifest("guest.yaml", guestManifest))
	must(t, n.Start(t.Context(), "--sandboxed-pods", "report"))
	guest := addPod(t, n, "vm", "guest")
	must(t, unprotected(t, n, "vm/guest", "runtime class kata-qemu"))
	if rules, err := lab.Rules(t.Context(), guest); err != nil || !strings.Contains(rules, "isolated by vm/deny") {
		t.Errorf("the reported pod's rules: %v\n%s", err, rules)
	}
	must(t, n.Check(t.Context(), n.Network(), guest, "eth0"))
}

// One that nobody said to be of Kata is known by what Kata does to its namespace.
func TestSandboxedPodIsFoundByItsDevices(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	pod := addPod(t, n, "vm", "secret")
	must(t, enforced(t.Context(), n, "vm/secret", 1))
	for _, command := range []string{
		"ip tuntap add tap0_kata mode tap",
		"ip link set tap0_kata up",
		"tc qdisc add dev eth0 ingress",
		"tc filter add dev eth0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev tap0_kata",
	} {
		words := strings.Fields(command)
		_, err := pod.Output(t.Context(), words[0], words[1:]...)
		must(t, err)
	}
	eventually(t, func() error { return unprotected(t, n, "vm/secret", "redirected to tap0_kata") })
	if log := n.LogTail(); !strings.Contains(log, "redirected to tap0_kata") {
		t.Errorf("the log does not say so:\n%s", log)
	}
}

// unprotected returns an error unless everything that shows the pod, the node's
// only one, shows it as unprotected, for a reason that has these words.
func unprotected(t *testing.T, n *lab.Node, pod, words string) error {
	all, err := inspect(t.Context(), n, pod)
	if err != nil {
		return err
	}
	if len(all) != 1 || all[0].Status.State != api.StateUnprotected || !strings.Contains(all[0].Status.Message, words) {
		return fmt.Errorf("policyctl inspect: %+v", all)
	}
	pods, err := attachments(t.Context(), n)
	if err != nil {
		return err
	}
	if len(pods) != 1 || pods[0].Status.State != api.StateUnprotected {
		return fmt.Errorf("policyctl get pods: %+v", pods)
	}
	out, err := n.Policyctl(t.Context(), "status", "-o", "json")
	if err != nil {
		return err
	}
	var st api.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return err
	}
	if st.Attachments[api.StateUnprotected] != 1 {
		return fmt.Errorf("policyctl status: %v", st.Attachments)
	}
	return nil
}
