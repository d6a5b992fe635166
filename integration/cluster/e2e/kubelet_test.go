package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// kubelet looks at what a kubelet does to pods and with them.
func kubelet(t *testing.T, c *cluster.Cluster) {
	s := newScene(t, c, "kubelet")
	t.Run("probes reach a pod that admits nobody", func(t *testing.T) { s.probes(t) })
	t.Run("a pod made again under its name is another pod", func(t *testing.T) { s.again(t) })
	t.Run("a host port follows policy", func(t *testing.T) { s.hostPort(t) })
}

// isolate keeps everything from the pods of an app, and them from everything.
func (s *scene) isolate(t *testing.T, app string) {
	t.Helper()
	s.apply(t, fmt.Sprintf(`{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": %q, "name": %q},
		"spec": {"podSelector": {"matchLabels": {"app": %q}}, "policyTypes": ["Ingress", "Egress"]}}`, s.namespace, app, app))
}

func (s *scene) probes(t *testing.T) {
	s.isolate(t, "probed")
	s.apply(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": %q, "name": "probed", "labels": {"app": "probed"}},
		"spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
			{"name": "http", "image": %q, "args": ["netexec", "--http-port=8080", "--udp-port=-1"], "imagePullPolicy": "Never",
				"readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
				"startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60}},
			{"name": "grpc", "image": %q, "args": ["grpc-health-checking", "--port=5000", "--http-port=8081"], "imagePullPolicy": "Never",
				"livenessProbe": {"grpc": {"port": 5000}, "periodSeconds": 1, "failureThreshold": 30}}]}}`,
		s.namespace, cluster.Agnhost, cluster.Agnhost))
	p := s.pod("probed", "", nil)
	if err := s.WaitPod(t.Context(), p, "Ready"); err != nil {
		t.Fatal(err)
	}
	out, err := s.Kubectl(t.Context(), "get", "pod", "-n", p.Namespace, p.Name, "-o", "jsonpath={.status.containerStatuses[*].restartCount}")
	if err != nil || out != "0 0" {
		t.Errorf("restarts %q, %v; want none", out, err)
	}
}

// again makes the same pod three times, each time with other labels.
func (s *scene) again(t *testing.T) {
	s.isolate(t, "closed")
	server := s.pod("server", "node2", map[string]string{"app": "server"})
	s.must(s.Pods(t.Context(), server))
	addresses, err := s.Addresses(t.Context(), server)
	s.must(err)
	to := netip.AddrPortFrom(addresses[s.Families[0]], 80)
	for _, app := range []string{"closed", "open", "closed"} {
		twin := s.pod("twin", "node1", map[string]string{"app": app})
		s.must(s.Pods(t.Context(), twin))
		if app == "open" {
			s.reaches(t, flow{twin, "tcp", to})
		} else {
			s.denied(t, flow{twin, "tcp", to})
		}
		s.must(s.Delete(t.Context(), twin.Manifest()))
	}
}

func (s *scene) hostPort(t *testing.T) {
	s.apply(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": %q, "name": "ported", "labels": {"app": "ported"}},
		"spec": {"nodeName": "node2", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [
			{"name": "main", "image": %q, "args": ["serve", "tcp/80"], "imagePullPolicy": "Never", "ports": [{"containerPort": 80, "hostPort": 8888}]}]}}`,
		s.namespace, cluster.Probe))
	s.must(s.WaitPod(t.Context(), s.pod("ported", "node2", nil), "Ready"))
	ask := func(ctx context.Context) error {
		_, err := s.Control.Exec(ctx, s.Tool("probe"), "dial", fmt.Sprintf("tcp/[%s]:8888", s.Nodes[1].Address(s.Families[0])))
		return err
	}
	s.must(s.Until(t.Context(), "an answer at the host port", ask))
	s.isolate(t, "ported")
	s.must(s.Until(t.Context(), "silence at the host port", func(ctx context.Context) error {
		if ask(ctx) == nil {
			return errors.New("it answers")
		}
		return nil
	}))
}
