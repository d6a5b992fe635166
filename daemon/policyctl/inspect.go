package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
)

// inspect builds `policyctl inspect`.
func (c *cli) inspect() *cobra.Command {
	var iface string
	cmd := &cobra.Command{
		Use:   "inspect NS/POD | CONTAINER-ID",
		Short: "Show everything about one pod's firewall",
		Long: `inspect shows a pod's interfaces, the policies that select it and why, each rule
with its live counters, what was dropped, and whether the kernel holds what it
should. The pod is NAMESPACE/NAME or the beginning of a container's id.`,
		Example: `  policyctl inspect shop/api
  policyctl inspect shop/api -o json | jq .status.state`,
		Args:              exactly("NS/POD or the beginning of a container id"),
		ValidArgsFunction: c.podNames(podName),
		RunE: does(func(ctx context.Context, args []string) error {
			return c.runInspect(ctx, api.InspectRequest{Pod: args[0], Interface: iface})
		}),
	}
	cmd.Flags().StringVar(&iface, "interface", "", "only this `INTERFACE`, where the pod has several")
	completeFlag(cmd, "interface", cobra.NoFileCompletions)
	return cmd
}

func (c *cli) runInspect(ctx context.Context, req api.InspectRequest) error {
	var found []api.Inspection
	if err := c.ask(ctx, api.VerbInspect, req, &found); err != nil {
		if notFound(err) {
			return c.near(ctx, req.Pod, err)
		}
		return err
	}
	if len(found) == 0 {
		return c.near(ctx, req.Pod, fmt.Errorf("inspect %s: the daemon knows no such pod on this node", req.Pod))
	}
	slices.SortFunc(found, func(a, b api.Inspection) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.ContainerID, b.ContainerID))
	})
	views := make([]inspection, len(found))
	for i, in := range found {
		views[i] = viewOf(in)
	}
	var v any = views
	if len(views) == 1 {
		v = views[0]
	}
	return c.show(v, func(p *page) {
		for _, in := range found {
			p.gap()
			c.drawInspection(p, in)
		}
	})
}

// near adds to err the name of a pod that was perhaps meant.
func (c *cli) near(ctx context.Context, name string, err error) error {
	var pods []api.PodSummary
	if c.ask(ctx, api.VerbPods, nil, &pods) != nil {
		return err // that of the question, not of the suggestion
	}
	var names []string
	for _, p := range pods {
		names = append(names, p.Pod())
	}
	if near := explain.Near(name, names); len(near) > 0 {
		return fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return err
}
