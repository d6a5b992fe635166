package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// reboot pulls the plug of a node and switches it on again: its attackers start
// anew, before or after podwall, and must not get anything out.
func reboot(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "reboot", c.Families[0])
	n := c.Nodes[1]
	v.must(n.PowerOff())
	v.must(n.Boot(t.Context()))
	v.must(c.Ready(t.Context()))
	v.must(c.Enforcing(t.Context()))
	v.restarted(t, n)
	v.closed(t)
}

// restarted waits until a node's attacker and stream run again after a reboot.
func (v *vigil) restarted(t *testing.T, n *cluster.Node) {
	t.Helper()
	for _, p := range append(v.attackers, v.streams...) {
		if p.Node != n.Name {
			continue
		}
		v.must(v.Until(t.Context(), p.String()+" runs again", func(ctx context.Context) error {
			_, err := v.ExecPod(ctx, p, "/bin/true")
			return err
		}))
	}
	v.alive(t, v.streams[n.Index-1])
}

// apiServerAway stops podwalld while nobody can be asked what the policies are.
// It must go on with what it knew, let no pod start that it can't know, and learn
// afterwards what it missed.
func apiServerAway(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "away", c.Families[0])
	v.stopAPIServer(t)
	for _, n := range c.Nodes {
		v.must(n.KillDaemon(t.Context()))
		v.servesAlone(t, n)
	}
	stranger := v.pod("static", "", watched)
	stranger.Args = []string{"flood", "static", v.addr["bad"].String()}
	n := c.Nodes[1]
	v.must(n.StaticPod(stranger))
	v.must(c.Until(t.Context(), "the runtime tries to start the static pod", func(ctx context.Context) error {
		_, err := n.Exec(ctx, "grep", "-q", "static-"+n.Name, n.Log("kubelet"))
		return err
	}))
	v.must(c.StartAPIServer(t.Context()))
	v.must(c.Enforcing(t.Context()))
	stranger.Name = "static-" + n.Name
	v.must(c.Until(t.Context(), "the static pod runs", func(ctx context.Context) error {
		_, err := v.ExecPod(ctx, stranger, "/bin/true")
		return err
	}))
	v.undisturbed(t)
	v.closed(t)
}

// stopAPIServer stops the API server until the test starts it again, or ends.
func (v *vigil) stopAPIServer(t *testing.T) {
	t.Helper()
	v.must(v.StopAPIServer())
	t.Cleanup(func() {
		if !v.Control.Running("apiserver") {
			v.must(v.StartAPIServer(context.Background()))
		}
	})
}

// servesAlone waits until podwalld serves from what it knew.
func (v *vigil) servesAlone(t *testing.T, n *cluster.Node) {
	t.Helper()
	v.must(v.Until(t.Context(), "podwalld serves on "+n.Name+" from what it knew", func(ctx context.Context) error {
		_, err := n.Policyctl(ctx, "get", "policies")
		return err
	}))
}

// bootAlone boots a node, with podwalld as a service of its own, while nobody can
// be asked what the policies are.
func bootAlone(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "alone", c.Families[0])
	n := c.Nodes[1]
	v.must(n.PowerOff())
	v.stopAPIServer(t)
	v.must(n.Boot(t.Context()))
	v.servesAlone(t, n)
	v.must(c.StartAPIServer(t.Context()))
	v.must(c.Ready(t.Context()))
	v.restarted(t, n)
	v.closed(t)
}

// upgrade replaces podwall on all nodes, one after the other, while pods send
// and start.
func upgrade(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "upgrade", c.Families[0])
	if _, err := c.Kubectl(t.Context(), "rollout", "restart", "-n", "podwall", "daemonset/podwall"); err != nil {
		t.Fatal(err)
	}
	v.start(t, 0, 6)
	v.must(c.RolledOut(t.Context()))
	v.must(c.Enforcing(t.Context()))
	v.start(t, 6, 10)
	v.undisturbed(t)
	v.closed(t)
}

// rewritten lets another writer replace the conflist as if podwall were not
// there. It must be chained again, and what starts then must be protected.
func rewritten(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "rewritten", c.Families[0])
	for _, n := range c.Nodes {
		v.must(n.WriteConflist())
	}
	v.chained(t)
	v.start(t, 0, 4)
	v.undisturbed(t)
	v.closed(t)
}

// chained waits until podwall is in every node's chain.
func (v *vigil) chained(t *testing.T) {
	t.Helper()
	for _, n := range v.Nodes {
		v.must(v.Until(t.Context(), "podwall is chained on "+n.Name, func(context.Context) error {
			ok, err := n.Chained()
			if err == nil && !ok {
				err = errors.New("it is not")
			}
			return err
		}))
	}
}

// runtimeRestart restarts containerd below running pods: their rules stay, new
// ones get theirs, and old ones can go.
func runtimeRestart(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "runtime", c.Families[0])
	for _, n := range c.Nodes {
		v.must(n.Restart("containerd"))
	}
	v.must(c.Ready(t.Context()))
	v.start(t, 0, 4)
	v.undisturbed(t)
	v.closed(t)
	for _, p := range v.attackers {
		v.must(c.Delete(t.Context(), p.Manifest())) // returns when the pod is gone
	}
}

// uninstall takes podwall away and installs it again. What was in the conflist
// before must be there after, pods that were protected can go, and pods start.
func uninstall(t *testing.T, c *cluster.Cluster) {
	v := keepVigil(t, c, "uninstall", c.Families[0])
	v.must(c.UninstallPodwall(t.Context()))
	for _, n := range c.Nodes {
		v.must(c.Until(t.Context(), "podwall is out of the chain on "+n.Name, func(context.Context) error {
			ok, err := n.Chained()
			if err == nil && ok {
				err = errors.New("it is still there")
			}
			return err
		}))
	}
	v.undisturbed(t)
	for _, p := range v.attackers {
		v.must(c.Delete(t.Context(), p.Manifest()))
	}
	free := v.pod("unguarded", c.Nodes[1].Name, watched)
	v.must(c.Pods(t.Context(), free))
	v.reaches(t, flow{free, "tcp", v.addr["bad"]})
	v.must(c.InstallPodwall(t.Context()))
	v.must(c.Enforcing(t.Context()))
	v.chained(t)
	v.denied(t, flow{free, "tcp", v.addr["bad"]}) // it is adopted as it runs
}

// status takes podwalld away below a runtime that asks STATUS: the node must say
// that its network is not ready, and why, for as long.
func status(t *testing.T, c *cluster.Cluster) {
	n := c.Nodes[0]
	if err := n.Stop("podwalld"); err != nil {
		t.Fatal(err)
	}
	said := func(ctx context.Context) (string, error) {
		return c.Kubectl(ctx, "get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
	}
	if err := c.Until(t.Context(), n.Name+" is not ready, and says that podwalld is away", func(ctx context.Context) error {
		out, err := said(ctx)
		if err == nil && !(strings.HasPrefix(out, "False ") && strings.Contains(out, "podwall")) {
			err = errors.New(out)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if err := n.StartDaemon(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
