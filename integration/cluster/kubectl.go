package cluster

import (
	"context"
	"strings"
)

// Kubectl runs kubectl as the administrator and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(c.Control.Command(ctx, c.kubectl(args)...))
}

func (c *Cluster) kubectl(args []string) []string {
	return append([]string{"kubectl", "--kubeconfig=" + c.Kubeconfig()}, args...)
}

// Apply applies manifests. What they describe may not be there yet.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	cmd := c.Control.Command(ctx, c.kubectl([]string{"apply", "-f", "-"})...)
	cmd.Stdin = strings.NewReader(manifests)
	_, err := output(cmd)
	return err
}

// Delete deletes what the manifests describe and waits until it is gone.
func (c *Cluster) Delete(ctx context.Context, manifests string) error {
	cmd := c.Control.Command(ctx, c.kubectl([]string{"delete", "--ignore-not-found", "-f", "-"})...)
	cmd.Stdin = strings.NewReader(manifests)
	_, err := output(cmd)
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.places) // a pod that comes back is somewhere else
	return err
}
