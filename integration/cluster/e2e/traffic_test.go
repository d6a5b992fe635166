package e2e

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/cluster"
)

// A scene is a namespace with its pods in a cluster, for one case.
type scene struct {
	*testing.T
	*cluster.Cluster
	namespace string
}

// newScene makes a namespace that goes with the test.
func newScene(t *testing.T, c *cluster.Cluster, namespace string) *scene {
	t.Helper()
	s := &scene{T: t, Cluster: c, namespace: namespace}
	s.must(c.Namespace(t.Context(), namespace))
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.Background(), "delete", "namespace", namespace, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pod is one of the scene, not started yet.
func (s *scene) pod(name, node string, labels map[string]string) cluster.Pod {
	return cluster.Pod{Namespace: s.namespace, Name: name, Node: node, Labels: labels}
}

// apply applies manifests and deletes them when the test t ends.
func (s *scene) apply(t *testing.T, manifests string) {
	t.Helper()
	if err := s.Apply(t.Context(), manifests); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Delete(context.Background(), manifests); err != nil {
			t.Error(err)
		}
	})
}

// Enforcement of what was just applied is waited for this long, and then this
// many further attempts must say the same.
const (
	settle = 20 * time.Second
	again  = 3
)

// A flow is a question from a pod to an address.
type flow struct {
	from    cluster.Pod
	network string
	to      netip.AddrPort
}

// reaches waits until a flow gets through, and demands that it goes on to. It
// returns what the server saw as the sender.
func (s *scene) reaches(t *testing.T, f flow) (server string, seen netip.Addr) {
	t.Helper()
	for deadline, good := time.Now().Add(settle), 0; good < again; {
		name, addr, err := s.Dial(t.Context(), f.from, f.network, f.to)
		if err == nil {
			server, seen = name, addr
			good++
			continue
		}
		if good > 0 || time.Now().After(deadline) {
			t.Errorf("%s to %s/%s: %v after %d answers, want answers", f.from, f.network, f.to, err, good)
			return "", netip.Addr{}
		}
	}
	return server, seen
}

// denied waits until a flow does not get through, and demands that it stays so.
func (s *scene) denied(t *testing.T, f flow) {
	t.Helper()
	for deadline, silent := time.Now().Add(settle), 0; silent < again; {
		server, seen, err := s.Dial(t.Context(), f.from, f.network, f.to)
		var silence *cluster.Silence
		switch {
		case errors.As(err, &silence):
			silent++
		case err != nil:
			t.Errorf("%s to %s/%s: %v", f.from, f.network, f.to, err)
			return
		case silent > 0 || time.Now().After(deadline):
			t.Errorf("%s to %s/%s: %s answered %s after %d silences, want silence", f.from, f.network, f.to, server, seen, silent)
			return
		}
	}
}
