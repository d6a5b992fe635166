package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A matrixCommand is what matrix's flags say.
type matrixCommand struct {
	dir, html string
	request   api.MatrixRequest
}

// matrix builds `policyctl matrix`.
func (c *cli) matrix() *cobra.Command {
	var (
		opts matrixCommand
		only ruleset.Ports
	)
	proto := protocol(ruleset.TCP)
	cmd := &cobra.Command{
		Use:   "matrix [-f DIR]",
		Short: "Show who may reach whom",
		Long: `matrix judges every pair of pods as explain would, at both ends: at each port that
a container of the target names or a policy mentions, and at any other. It asks the
daemon about the pods that it knows or, with -f, reads the manifests in DIR as
podwalld does and asks nobody.

Pods of one owner that nothing tells apart share a row. -o wide adds what decides
about each pair, and --html draws one picture that needs no other file.`,
		Example: `  policyctl matrix -n shop
  policyctl matrix -f manifests -n shop --port 53 --protocol udp
  policyctl matrix -f manifests --html matrix.html
  policyctl matrix -f manifests -o json | jq '.cells[] | select(.verdict != "Deny")'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = does(func(ctx context.Context, _ []string) error {
		if only.First != 0 {
			only.Proto, only.Last = ruleset.Proto(proto), only.First
			opts.request.Ports = []ruleset.Ports{only}
		} else if cmd.Flags().Changed("protocol") {
			return usagef("--protocol needs --port")
		}
		if opts.html != "" && cmd.Flags().Changed("output") {
			return usagef("--html and --output exclude each other")
		}
		return c.runMatrix(ctx, opts)
	})
	f := cmd.Flags()
	f.StringVarP(&opts.dir, "file", "f", "", "`DIR` of manifests, to ask about instead of the daemon's pods")
	f.StringSliceVarP(&opts.request.Namespaces, "namespace", "n", nil, "only pods of this `NAMESPACE`; may be repeated")
	f.Var((*port)(&only.First), "port", "ask about this destination port alone")
	f.Var(&proto, "protocol", "of that port: tcp, udp or sctp")
	f.StringVar(&opts.html, "html", "", "write a picture to `FILE`, or to stdout if that is -")
	if err := cmd.MarkFlagDirname("file"); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
	names := c.podNames(namespaceOf)
	completeFlag(cmd, "namespace", func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if opts.dir == "" {
			return names(cmd, args, word)
		}
		return namespacesOf(c.read(opts.dir)), cobra.ShellCompDirectiveNoFileComp
	})
	completeFlag(cmd, "port", cobra.NoFileCompletions)
	suggestFlag(cmd, "protocol", "tcp", "udp", "sctp")
	return cmd
}

func (c *cli) runMatrix(ctx context.Context, opts matrixCommand) error {
	var (
		m   matrix.Matrix
		err error
	)
	if opts.dir == "" {
		err = c.ask(ctx, api.VerbMatrix, opts.request, &m)
	} else {
		m, err = c.offlineMatrix(opts)
	}
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

func (c *cli) offlineMatrix(opts matrixCommand) (matrix.Matrix, error) {
	world, err := c.rehearsal(opts.dir)
	if err != nil {
		return matrix.Matrix{}, err
	}
	w := policy.New(world.Snapshot)
	pods, err := matrix.Pods(w, opts.request.Namespaces)
	if err != nil {
		return matrix.Matrix{}, err
	}
	return matrix.Of(w, explain.Options{}, pods, opts.request.Ports)
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
