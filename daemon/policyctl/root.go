package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
)

const (
	defaultSocket = "/run/podwall/podwalld.sock"
	// patience bounds one question to the daemon.
	patience = 10 * time.Second
	// completionPatience bounds what a person waits for after pressing Tab.
	completionPatience = 500 * time.Millisecond
)

// A cli is one run of policyctl: the program and its global flags.
type cli struct {
	program
	socket string
	output format
	plain  bool // --no-color
}

// A format is a value of -o.
type format string

const (
	table    format = "table"
	wide     format = "wide"
	jsonText format = "json"
	yamlText format = "yaml"
)

var formats = []string{string(table), string(wide), string(jsonText), string(yamlText)}

// String, Set and Type make *format a flag's value.
func (f *format) String() string { return string(*f) }

// Type is what help prints for the value.
func (f *format) Type() string { return "FORMAT" }

// Set takes one of formats.
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("want table, wide, json or yaml")
	}
	*f = format(s)
	return nil
}

// root builds the command tree.
func (p program) root() *cobra.Command {
	c := &cli{program: p, output: table}
	cmd := parent(&cobra.Command{
		Use:   "policyctl",
		Short: "See the firewall of every pod on this node",
		Long: `policyctl shows what podwall does on this node: which pods have rules, which
policies these come from, what they count, and why a connection is let through
or not.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SetOut(p.stdout)
	cmd.SetErr(p.stderr)
	flags := cmd.PersistentFlags()
	flags.StringVar(&c.socket, "socket", defaultSocket, "`PATH` of the daemon's socket")
	flags.VarP(&c.output, "output", "o", "table, wide, json or yaml")
	flags.BoolVar(&c.plain, "no-color", false, "no colours, also on a terminal")
	suggestFlag(cmd, "output", formats...)
	cmd.AddCommand(c.status(), c.get(), c.inspect(), c.explain(), c.monitor(), c.top(), c.compile(), c.matrix(), c.test(), c.rehearse(), c.recommend(), c.doctor(), c.version())
	return cmd
}

// parent makes cmd one that does nothing but hold others, and names the nearest
// of them when it is given a wrong one.
func parent(cmd *cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q", strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "policyctl "))
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		return fmt.Errorf("%s what? one of: %s", cmd.Name(), strings.Join(names, ", "))
	}
	return cmd
}

// does makes fn what a command does, and its errors failures.
func does(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := fn(cmd.Context(), args); err != nil {
			return &failure{err}
		}
		return nil
	}
}

// exactly demands one argument and says what it is when there is another number.
func exactly(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s: want one argument, %s, got %d", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// ask puts one question to the daemon.
func (c *cli) ask(ctx context.Context, verb api.Verb, req, res any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return api.Client{Socket: c.socket}.Call(ctx, verb, req, res, nil)
}

// suggestFlag makes the shell complete a flag with the given values.
func suggestFlag(cmd *cobra.Command, flag string, values ...string) {
	completeFlag(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func completeFlag(cmd *cobra.Command, flag string, fn cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
}

func require(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag was not defined: a mistake in this package
		}
	}
}

// podNames completes with what name makes of each pod the daemon knows. Without
// a daemon there is nothing to complete.
func (c *cli) podNames(name func(api.PodSummary) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), completionPatience)
		defer cancel()
		var pods []api.PodSummary
		if err := c.ask(ctx, api.VerbPods, nil, &pods); err != nil || (len(args) > 0 && cmd.Name() == "inspect") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, p := range pods {
			names = append(names, name(p))
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

func podName(p api.PodSummary) string { return p.Pod() }

func namespaceOf(p api.PodSummary) string { return p.Namespace }

// notFound reports whether the daemon answered that there is no such thing.
func notFound(err error) bool { return errors.Is(err, api.ErrNotFound) }
