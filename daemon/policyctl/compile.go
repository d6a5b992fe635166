package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
)

// A compilation is what compile's flags say.
type compilation struct {
	dir, pod, iface string
	node            []string
}

// compile builds `policyctl compile`.
func (c *cli) compile() *cobra.Command {
	var opts compilation
	cmd := &cobra.Command{
		Use:   "compile -f DIR --pod NS/POD",
		Short: "Print the rules a pod would get from a directory of manifests",
		Long: `compile reads the manifests in DIR as podwalld does and prints the pod's rules as
nft text, which "nft -f" loads in a network namespace that has the interface. It
asks neither the daemon nor the kernel.

What can't be honoured is reported on stderr; the rules are then closed in its
place, as they would be on a node.`,
		Example: `  policyctl compile -f manifests --pod shop/api
  policyctl compile -f manifests --pod shop/api -o json | jq .ingress.tiers`,
		Args: cobra.NoArgs,
		RunE: does(func(context.Context, []string) error { return c.runCompile(opts) }),
	}
	f := cmd.Flags()
	f.StringVarP(&opts.dir, "file", "f", "", "`DIR` of manifests")
	f.StringVar(&opts.pod, "pod", "", "`NS/POD` whose rules to compile")
	f.StringVar(&opts.iface, "interface", "eth0", "the pod's `INTERFACE`")
	f.StringSliceVar(&opts.node, "node-address", nil, "`ADDRESS` of the pod's own node, beside those of its manifest")
	require(cmd, "file", "pod")
	if err := cmd.MarkFlagDirname("file"); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
	completeFlag(cmd, "pod", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if opts.dir == "" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return podsOf(c.read(opts.dir)), cobra.ShellCompDirectiveNoFileComp
	})
	completeFlag(cmd, "interface", cobra.NoFileCompletions)
	completeFlag(cmd, "node-address", cobra.NoFileCompletions)
	return cmd
}

func (c *cli) runCompile(opts compilation) error {
	end, err := explain.ParseEnd(opts.pod)
	if err != nil || end.Service || end.Addr.IsValid() {
		return usagef("pod %q: want namespace/pod", opts.pod)
	}
	node, err := parseAddrs(opts.node)
	if err != nil {
		return err
	}
	world, err := c.manifests(opts.dir)
	if err != nil {
		return err
	}
	t, err := target(world, end, node)
	if err != nil {
		return err
	}
	rs := policy.New(world.Snapshot).Compile(t)
	switch c.output {
	case jsonText, yamlText:
		return c.show(rs, nil)
	}
	_, err = io.WriteString(c.stdout, rs.Text(opts.iface))
	return err
}

// target is the attachment that the pod would have, with all its addresses.
func target(world source.World, pod explain.End, node []netip.Addr) (policy.Target, error) {
	for _, p := range world.Pods {
		if p.Namespace != pod.Namespace || p.Name != pod.Name {
			continue
		}
		if p.HostNetwork {
			return policy.Target{}, fmt.Errorf("compile %s: the pod is on its node's network, where podwall has no rules", pod)
		}
		for _, n := range world.Nodes {
			if n.Name == p.Node {
				node = append(node, n.Addresses...)
			}
		}
		return policy.Target{Pod: p, Addresses: p.Addresses, Node: node}, nil
	}
	err := fmt.Errorf("compile %s: no manifest of that pod", pod)
	if near := explain.Near(pod.String(), podsOf(world)); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return policy.Target{}, err
}

// podsOf is the names of the pods of world.
func podsOf(world source.World) []string {
	names := make([]string, len(world.Pods))
	for i, p := range world.Pods {
		names[i] = p.Namespace + "/" + p.Name
	}
	slices.Sort(names)
	return names
}

func parseAddrs(list []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, usagef("node-address %q: want an address", s)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
