package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/source/manifest"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/recommend"
)

// recommend builds `policyctl recommend`.
func (c *cli) recommend() *cobra.Command {
	var (
		opts         recommend.Options
		since, flows string
	)
	cmd := &cobra.Command{
		Use:   "recommend",
		Short: "Write the least policies that allow what was accepted",
		Long: `recommend writes NetworkPolicies for this node's pods that allow the flows podwalld has
seen accepted, and nothing else, with the evidence for each rule as a comment. What was
only dropped is never allowed. The policies are read back and checked against every flow
before they are printed; nothing is applied.

Accepted flows are observed where podwalld's configuration says events: [drops, accepts],
or where podAnnotations lists observe and a pod or its namespace has the annotation
podwall.io/observe: "true".`,
		Example: `  policyctl recommend --namespace shop --since 24h >policies.yaml
  policyctl rehearse -f policies.yaml`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error { return c.runRecommend(ctx, opts, since, flows) }),
	}
	f := cmd.Flags()
	f.StringVarP(&opts.Namespace, "namespace", "n", "", "only for pods in this `NAMESPACE`")
	f.StringVar(&opts.Pod, "pod", "", "only for the workload of this `NS/POD`")
	f.BoolVar(&opts.Audited, "audited", false, "also allow what passed by an audit alone")
	f.StringVar(&since, "since", "", "only flows seen since a `TIME` ago as in 24h, or a moment as RFC 3339 has it")
	f.StringVar(&flows, "flows", "", "take flows and cluster from this `FILE`, which get flows -o json wrote")
	completeFlag(cmd, "pod", c.podNames(podName))
	completeFlag(cmd, "namespace", c.podNames(namespaceOf))
	completeFlag(cmd, "since", cobra.NoFileCompletions)
	return cmd
}

func (c *cli) runRecommend(ctx context.Context, opts recommend.Options, since, flows string) error {
	when, err := sinceWhen(since, c.now())
	if err != nil {
		return err
	}
	e, err := c.evidence(ctx, flows, api.EvidenceRequest{Since: when})
	if err != nil {
		return err
	}
	r := recommend.Of(e, opts)
	if len(r.Policies) == 0 {
		return fmt.Errorf("recommend: %w: no accepted flow was seen; %s", errNothingSeen, howToObserve)
	}
	text := r.YAML()
	world, err := manifest.Parse("recommended.yaml", []byte(text))
	if err != nil {
		return fmt.Errorf("recommend: read back: %w", err)
	}
	if len(world.Problems) > 0 {
		return fmt.Errorf("recommend: read back: %s", world.Problems[0])
	}
	if err := r.Check(e, opts, world.Policies); err != nil {
		return fmt.Errorf("recommend: %w", err)
	}
	if c.output == jsonText {
		return printJSON(c.stdout, r)
	}
	_, err = fmt.Fprint(c.stdout, text)
	return err
}
