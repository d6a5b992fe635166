package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// startupTaint keeps pods from a node until podwall has taken it away.
const startupTaint = "podwall.io/agent-not-ready"

// installPodwall installs podwall in the cluster, if it is to be.
func (c *Cluster) installPodwall(ctx context.Context) error {
	switch c.Podwall {
	case Absent:
		return nil
	case Manifests:
		if err := c.InstallPodwall(ctx); err != nil {
			return err
		}
	}
	return c.Enforcing(ctx)
}

// InstallPodwall gives the nodes the image that make image made and applies the
// manifests, as people do. It returns when the DaemonSet is ready on every node.
func (c *Cluster) InstallPodwall(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Import(ctx, c.product("bin/podwall-image.tar")); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, "apply", "-k", c.product(manifests)); err != nil {
		return err
	}
	return c.RolledOut(ctx)
}

// RolledOut waits until podwall's pods are the newest, and ready.
func (c *Cluster) RolledOut(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "rollout", "status", "-n", "podwall", "daemonset/podwall", "--timeout=120s")
	return err
}

// UninstallPodwall deletes what the manifests made, and waits until it is gone.
func (c *Cluster) UninstallPodwall(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "delete", "-k", c.product(manifests), "--timeout=120s")
	return err
}

const manifests = "install/manifests/base"

// product is the path of something that podwall is made of.
func (c *Cluster) product(name string) string { return filepath.Join(c.Product, name) }

// Enforcing waits until podwall serves on every node.
func (c *Cluster) Enforcing(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := c.Until(ctx, "podwall serves on "+n.Name, func(ctx context.Context) error {
			_, err := n.Policyctl(ctx, "status")
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// Policyctl asks podwalld on the node.
func (n *Node) Policyctl(ctx context.Context, args ...string) (string, error) {
	return n.Exec(ctx, append([]string{n.cluster.product("bin/policyctl")}, args...)...)
}

// Chained says whether podwall is in the conflist that the runtime uses.
func (n *Node) Chained() (bool, error) {
	b, err := os.ReadFile(n.conflist())
	return strings.Contains(string(b), `"podwall"`), err
}

// bootPodwall does, on a node that boots, what is podwall's part of it. Installed
// by manifests it is a pod, and the kubelet's to start.
func (c *Cluster) bootPodwall(n *Node) error {
	if c.Podwall != Direct {
		return nil
	}
	to := filepath.Join(n.disk, "/opt/cni/bin/podwall")
	if err := os.Link(c.product("bin/podwall"), to); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("install podwall: %w", err)
	}
	return n.StartDaemon()
}

// StartDaemon starts podwalld as a process of the node, under the name podwalld.
func (n *Node) StartDaemon() error {
	return n.Start("podwalld", n.cluster.product("bin/podwalld"), "--kubeconfig="+n.cluster.Kubeconfig(), "--node-name="+n.Name)
}

// taints are those that a node registers with.
func (c *Cluster) taints() []map[string]string {
	if c.Podwall != Manifests {
		return nil
	}
	return []map[string]string{{"key": startupTaint, "effect": "NoSchedule"}}
}

// KillDaemon kills podwalld on the node, without a word. Whoever keeps it running
// starts it again.
func (n *Node) KillDaemon(ctx context.Context) error {
	if n.cluster.Podwall == Direct {
		if err := n.Kill("podwalld"); err != nil {
			return err
		}
		return n.StartDaemon()
	}
	id, err := n.Crictl(ctx, "ps", "-q", "--name", "^podwalld$")
	if err != nil {
		return err
	}
	_, err = n.Exec(ctx, "ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", strings.TrimSpace(id))
	return err
}
