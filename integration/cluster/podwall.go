package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// bootPodwall does, on a node that boots, what is podwall's part of it. Installed
// by manifests it is a pod, and the kubelet's to start.
func (c *Cluster) bootPodwall(n *Node) error {
	if c.Podwall != Direct {
		return nil
	}
	root, err := Repository()
	if err != nil {
		return err
	}
	to := filepath.Join(n.disk, "/opt/cni/bin/podwall")
	if err := os.Link(filepath.Join(root, "bin/podwall"), to); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("install podwall: %w", err)
	}
	return n.StartDaemon()
}

// StartDaemon starts podwalld as a process of the node, under the name podwalld.
func (n *Node) StartDaemon() error {
	root, err := Repository()
	if err != nil {
		return err
	}
	return n.Start("podwalld", filepath.Join(root, "bin/podwalld"), "--kubeconfig="+n.cluster.Kubeconfig(), "--node-name="+n.Name)
}

// installPodwall installs podwall in the cluster, if it is to be.
func (c *Cluster) installPodwall(ctx context.Context) error {
	if c.Podwall == Absent {
		return nil
	}
	return c.Enforcing(ctx)
}

// Enforcing waits until podwall serves on every node.
func (c *Cluster) Enforcing(ctx context.Context) error {
	root, err := Repository()
	if err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.Until(ctx, "podwall serves on "+n.Name, func(ctx context.Context) error {
			_, err := n.Exec(ctx, filepath.Join(root, "bin/policyctl"), "status")
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// taints are those that a node has until podwall is there.
func (c *Cluster) taints() []map[string]string { return nil }
