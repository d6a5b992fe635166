package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
)

// get builds `policyctl get`.
func (c *cli) get() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "get",
		Short: "List the pods, the policies or the flows of this node",
	})
	var namespace string
	cmd.PersistentFlags().StringVarP(&namespace, "namespace", "n", "", "only what is in this `NAMESPACE`")
	completeFlag(cmd, "namespace", c.podNames(namespaceOf))
	cmd.AddCommand(
		&cobra.Command{
			Use:     "pods",
			Aliases: []string{"pod", "po"},
			Short:   "List the pods that have rules on this node",
			Args:    cobra.NoArgs,
			RunE:    does(func(ctx context.Context, _ []string) error { return c.getPods(ctx, namespace) }),
		},
		&cobra.Command{
			Use:     "policies",
			Aliases: []string{"policy", "netpol"},
			Short:   "List the policies and the pods of this node that they select",
			Args:    cobra.NoArgs,
			RunE:    does(func(ctx context.Context, _ []string) error { return c.getPolicies(ctx, namespace) }),
		},
		c.getFlows(&namespace))
	return cmd
}

func (c *cli) getPods(ctx context.Context, namespace string) error {
	pods := []api.PodSummary{}
	if err := c.ask(ctx, api.VerbPods, nil, &pods); err != nil {
		return err
	}
	pods = slices.DeleteFunc(pods, func(p api.PodSummary) bool { return namespace != "" && p.Namespace != namespace })
	slices.SortFunc(pods, func(a, b api.PodSummary) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Interface, b.Interface))
	})
	if len(pods) == 0 {
		c.none("pods", namespace)
	}
	return c.show(pods, func(p *page) { c.drawPods(p, pods) })
}

func (c *cli) getPolicies(ctx context.Context, namespace string) error {
	policies := []api.PolicySummary{}
	if err := c.ask(ctx, api.VerbPolicies, nil, &policies); err != nil {
		return err
	}
	policies = slices.DeleteFunc(policies, func(p api.PolicySummary) bool { return namespace != "" && p.Namespace != namespace })
	slices.SortFunc(policies, func(a, b api.PolicySummary) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	if len(policies) == 0 {
		c.none("policies", namespace)
	}
	return c.show(policies, func(p *page) { c.drawPolicies(p, policies) })
}

// none says on stderr why a list is empty, so that stdout is what was asked for.
func (c *cli) none(what, namespace string) {
	where := "on this node"
	if namespace != "" {
		where = "in namespace " + namespace + " on this node"
	}
	fmt.Fprintf(c.stderr, "no %s %s\n", what, clean(where))
}

func (c *cli) drawPods(p *page, pods []api.PodSummary) {
	if len(pods) == 0 {
		return
	}
	now := c.now()
	head := []string{"NAMESPACE", "NAME", "INTERFACE", "ADDRESSES", "ISOLATED", ">POLICIES", "STATE", "APPLIED"}
	if c.output == wide {
		head = append(head, ">EPOCH", ">TOOK", "CONTAINER", "NETWORK", "REVISION", "NETNS")
	}
	// Most days nobody has anything to say, and the column would be dashes.
	talk := slices.ContainsFunc(pods, func(p api.PodSummary) bool { return p.Status.Message != "" })
	if talk {
		head = append(head, "MESSAGE")
	}
	g := newGrid(head...)
	for _, pod := range pods {
		cells := []text{plain(pod.Namespace), bold.in(pod.Name), plain(pod.Interface), plain(addresses(pod.Addresses, ",")),
			isolation(pod), plain(fmt.Sprint(pod.Policies)),
			state(pod.Status.State), plain(ago(pod.Status.AppliedAt, now))}
		if c.output == wide {
			cells = append(cells, plain(fmt.Sprint(pod.Status.Epoch)), plain(took(pod.Status.Took)), plain(short(pod.ContainerID, 12)),
				plain(pod.Network), plain(revision(pod.Status.Revision)), plain(pod.Netns))
		}
		if talk {
			cells = append(cells, plain(pod.Status.Message))
		}
		g.row(cells...)
	}
	p.draw(g, "")
}

// isolation says in which directions a pod is isolated, and whether in earnest.
func isolation(pod api.PodSummary) text {
	ds := plain(directions(pod.Isolation.Ingress, pod.Isolation.Egress))
	if pod.Audit {
		return append(ds, yellow.in(" (audit)")...)
	}
	return ds
}

func (c *cli) drawPolicies(p *page, policies []api.PolicySummary) {
	if len(policies) == 0 {
		return
	}
	head := []string{"NAMESPACE", "NAME", "KIND", "ISOLATES"}
	if c.output == wide {
		head = append(head, "PODS")
	} else {
		head = append(head, ">PODS")
	}
	talk := slices.ContainsFunc(policies, func(p api.PolicySummary) bool { return p.Problem != "" })
	if talk {
		head = append(head, "PROBLEM")
	}
	g := newGrid(head...)
	for _, pol := range policies {
		pods := fmt.Sprint(len(pol.Pods))
		if c.output == wide {
			pods = strings.Join(pol.Pods, ",")
		}
		cells := []text{plain(pol.Namespace), bold.in(pol.Name), plain(pol.Kind), plain(directions(pol.Ingress, pol.Egress)), plain(pods)}
		if talk {
			cells = append(cells, red.in(pol.Problem))
		}
		g.row(cells...)
	}
	p.draw(g, "")
}

func addresses(as []netip.Addr, sep string) string {
	parts := make([]string, len(as))
	for i, a := range as {
		parts[i] = a.String()
	}
	return strings.Join(parts, sep)
}

// revision is as much of a revision as tells two apart.
func revision(r string) string { return short(strings.TrimPrefix(r, "sha256:"), 12) }
