package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
)

// getFlows builds `policyctl get flows`.
func (c *cli) getFlows(namespace *string) *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use:     "flows",
		Aliases: []string{"flow"},
		Short:   "List the flows that were observed on this node",
		Long: `flows lists what podwalld remembers of flows: who opened them to whom, whose rules
decided, how, and how often. A drop counts packets, all else flows.

-o json and -o yaml have also what of the cluster it takes to judge them again: it is
what rehearse and recommend take with --flows. It holds names, labels and addresses of
pods, and policies.`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error { return c.runFlows(ctx, *namespace, since) }),
	}
	cmd.Flags().StringVar(&since, "since", "", "only flows seen since a `TIME` ago as in 24h, or a moment as RFC 3339 has it")
	completeFlag(cmd, "since", cobra.NoFileCompletions)
	return cmd
}

func (c *cli) runFlows(ctx context.Context, namespace, since string) error {
	when, err := sinceWhen(since, c.now())
	if err != nil {
		return err
	}
	e, err := c.evidence(ctx, "", api.EvidenceRequest{Since: when})
	if err != nil {
		return err
	}
	e.Flows.Flows = slices.DeleteFunc(e.Flows.Flows, func(f api.Flow) bool { return namespace != "" && evidence.Local(&f).Namespace != namespace })
	if len(e.Flows.Flows) == 0 {
		c.none("flows", namespace)
	}
	return c.show(e, func(p *page) { c.drawFlows(p, e.Flows.Flows) })
}

func (c *cli) drawFlows(p *page, flows []api.Flow) {
	if len(flows) == 0 {
		return
	}
	g := newGrid("VERDICT", "FROM", "TO", "PROTOCOL", "RULES OF", ">COUNT", "LAST")
	for _, f := range flows {
		isWide := c.output == wide
		g.row(fate(f.Verdict), plain(endName(f.From, isWide, false)), plain(endName(f.To, isWide, true)), plain(f.Protocol),
			plain(fmt.Sprintf("%s, %s", endName(*evidence.Local(&f), false, false), f.Direction)), plain(count(f.Count)), plain(ago(f.Last, c.now())))
	}
	p.draw(g, "")
}
