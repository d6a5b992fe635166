package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A matrixCommand is what matrix's flags say.
type matrixCommand struct {
	dir, html  string
	namespaces []string
	port       uint16
	proto      ruleset.Proto
}

// matrix builds `policyctl matrix`.
func (c *cli) matrix() *cobra.Command {
	var opts matrixCommand
	proto := protocol(ruleset.TCP)
	cmd := &cobra.Command{
		Use:   "matrix -f DIR",
		Short: "Show who may reach whom, from a directory of manifests",
		Long: `matrix reads the manifests in DIR as podwalld does and judges every pair of their
pods as explain would, at both ends: at each port that a container of the target
names or a policy mentions, and at any other. It asks neither the daemon, which
knows the rules of this node's pods alone, nor the kernel: -f is needed.

Pods of one owner that nothing tells apart share a row. -o wide adds what decides
about each pair, and --html draws one picture that needs no other file.`,
		Example: `  policyctl matrix -f manifests
  policyctl matrix -f manifests -n shop --port 53 --protocol udp
  policyctl matrix -f manifests --html matrix.html
  policyctl matrix -f manifests -o json | jq '.cells[] | select(.verdict != "Deny")'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = does(func(context.Context, []string) error {
		opts.proto = ruleset.Proto(proto)
		if cmd.Flags().Changed("protocol") && opts.port == 0 {
			return usagef("--protocol needs --port")
		}
		if opts.html != "" && cmd.Flags().Changed("output") {
			return usagef("--html and --output exclude each other")
		}
		return c.runMatrix(opts)
	})
	f := cmd.Flags()
	f.StringVarP(&opts.dir, "file", "f", "", "`DIR` of manifests")
	f.StringSliceVarP(&opts.namespaces, "namespace", "n", nil, "only pods of this `NAMESPACE`; may be repeated")
	f.Var((*port)(&opts.port), "port", "ask about this destination port alone")
	f.Var(&proto, "protocol", "of that port: tcp, udp or sctp")
	f.StringVar(&opts.html, "html", "", "write a picture to `FILE`, or to stdout if that is -")
	require(cmd, "file")
	if err := cmd.MarkFlagDirname("file"); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
	completeFlag(cmd, "namespace", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if opts.dir == "" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return namespacesOf(c.read(opts.dir)), cobra.ShellCompDirectiveNoFileComp
	})
	completeFlag(cmd, "port", cobra.NoFileCompletions)
	suggestFlag(cmd, "protocol", "tcp", "udp", "sctp")
	return cmd
}

func (c *cli) runMatrix(opts matrixCommand) error {
	world, err := c.manifests(opts.dir)
	if err != nil {
		return err
	}
	pods, err := c.matrixPods(world, opts.namespaces)
	if err != nil {
		return err
	}
	var only []ruleset.Ports
	if opts.port != 0 {
		only = []ruleset.Ports{{Proto: opts.proto, First: opts.port, Last: opts.port}}
	}
	m, err := survey(policy.New(world.Snapshot), pods, only)
	if err != nil {
		return err
	}
	switch opts.html {
	case "":
		return c.show(m, func(p *page) { drawMatrix(p, m, c.output == wide) })
	case "-":
		_, err = io.WriteString(c.stdout, matrixHTML(m))
		return err
	}
	if err := os.WriteFile(opts.html, []byte(matrixHTML(m)), 0o644); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// matrixPods is the pods of the namespaces, or of all if none are named, in the
// order of their names. Those that have ended have no network. What has no address
// is reported: no flow reaches it, and that is seldom what the manifests' author
// wants to see.
func (c *cli) matrixPods(world source.World, namespaces []string) ([]policy.Pod, error) {
	known := namespacesOf(world)
	for _, n := range namespaces {
		if slices.Contains(known, n) {
			continue
		}
		err := fmt.Errorf("namespace %s: no manifest of a pod there", n)
		if near := explain.Near(n, known); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return nil, err
	}
	var pods []policy.Pod
	for _, p := range world.Pods {
		if p.Done || len(namespaces) > 0 && !slices.Contains(namespaces, p.Namespace) {
			continue
		}
		pods = append(pods, p)
		if len(p.Addresses) == 0 && !p.HostNetwork {
			fmt.Fprintf(c.stderr, "policyctl: warning: pod %s/%s has no address (status.podIPs): nothing is judged to reach it\n",
				clean(p.Namespace), clean(p.Name))
		}
	}
	slices.SortFunc(pods, func(a, b policy.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// namespacesOf is the namespaces in which world has pods.
func namespacesOf(world source.World) []string {
	var names []string
	for _, p := range world.Pods {
		names = append(names, p.Namespace)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
