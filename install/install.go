package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/install/change"
	"github.com/podwall/podwall/install/confdir"
)

// entryFlags are those that say what stands in the networks.
func (n *node) entryFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&n.entry.Socket, "socket", n.entry.Socket, "`PATH` where the plugin finds podwalld")
	flags.StringVar(&n.policy, "failure-policy", n.policy, "`POLICY`, closed or open: what becomes of a pod that podwalld can't be asked about")
	flags.StringVar(&n.entry.Namespace, "namespace", n.entry.Namespace, "`NAME` of the namespace of pods that come without one")
	flags.BoolVar(&n.dir.DropIn, "drop-in", false, "put the plugin beside a network's file, not into it; only for runtimes with libcni 1.3 or newer, others never look there")
	flags.BoolVar(&n.dir.ListsOnly, "lists-only", false, "leave files of single plugins alone, where something refers to them by their names")
	flags.StringVar(&n.dir.CNIVersion, "cni-version", "", "raise a lower cniVersion to `VERSION`; where the plugins, and in Kubernetes the node's runtime, say that they speak it")
	n.nodeFlag(cmd)
	n.entryCommand(cmd)
}

// entryCommand has the flags looked at before the command begins.
func (n *node) entryCommand(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return n.prepare(cmd.Context()) }
}

func (n *node) dryRunFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&n.dryRun, "dry-run", false, "print the changes as a unified diff and make none")
}

func (n *node) installCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Copy the binaries and chain the plugin, once",
		RunE:  does(n.install),
	}
	n.entryFlags(cmd)
	n.dryRunFlag(cmd)
	cmd.Flags().BoolVar(&n.binariesOnly, "binaries-only", false, "leave the networks to \"podwall-install run\"")
	return cmd
}

// A plan is what there is and what to do about it.
type plan struct {
	binaries []change.Change
	files    []confdir.File
}

// plan looks at the node.
func (n *node) plan() (plan, error) {
	copies, err := n.copies()
	if err != nil {
		return plan{}, err
	}
	if n.binariesOnly {
		return plan{binaries: copies}, nil
	}
	files, err := n.dir.Look()
	return plan{copies, files}, err
}

// changes returns all changes in the order to make them.
func (p plan) changes() []change.Change {
	all := slices.Clone(p.binaries)
	for _, f := range p.files {
		all = append(all, f.Install...)
	}
	return all
}

// waiting reports whether no runtime could give a pod any network yet.
func (p plan) waiting() bool {
	return !slices.ContainsFunc(p.files, func(f confdir.File) bool { return f.Selected })
}

// tries bounds how often one install begins anew since files change meanwhile.
const tries = 5

// install does everything once.
func (n *node) install(ctx context.Context) error {
	var p plan
	var err error
	for range tries {
		if p, err = n.plan(); err != nil {
			return err
		}
		if n.dryRun {
			n.show(p.changes())
			break
		}
		if err = n.apply(ctx, p.changes()); !errors.Is(err, change.ErrOutdated) {
			break
		}
	}
	if err != nil {
		return err
	}
	return n.report(p)
}

// show prints the changes without making them.
func (n *node) show(changes []change.Change) {
	for _, c := range changes {
		fmt.Fprint(n.stdout, c.Diff())
	}
}

// report says what was done and what could not be.
func (n *node) report(p plan) error {
	if !n.dryRun {
		for _, c := range p.binaries {
			fmt.Fprintf(n.stdout, "copied %s\n", c.Path)
		}
		for _, f := range p.files {
			if len(f.Install) > 0 {
				fmt.Fprintf(n.stdout, "chained podwall in network %s (%s)\n", f.Network, f.Path)
			}
		}
	}
	if p.waiting() && !n.binariesOnly {
		fmt.Fprintf(n.stderr, "podwall-install: no network in %s that a runtime could give a pod; once there is one, install again\n", n.dir.Path)
	}
	return n.problems(p.files)
}

// problems prints what is wrong with files, and fails if that leaves pods without
// a firewall.
func (n *node) problems(files []confdir.File) error {
	unprotected := false
	for _, f := range files {
		if f.Problem == "" {
			continue
		}
		fmt.Fprintf(n.stderr, "podwall-install: %s\n", problem(f))
		unprotected = unprotected || f.Stuck()
	}
	if unprotected {
		return &failure{status: exitFailed}
	}
	return nil
}

// problem says what is wrong with one file and what follows from it.
func problem(f confdir.File) string {
	text := fmt.Sprintf("%s: %s", f.Path, f.Problem)
	switch {
	case f.Stuck():
		text += fmt.Sprintf(" (pods on network %q have no firewall)", f.Network)
	case f.State == confdir.Unusable:
		text += " (left alone: no runtime can load it)"
	}
	return text
}

// dirs are the directories that others might change.
func (n *node) dirs() []string {
	dirs := []string{n.cniBin, n.dir.Path}
	if n.bin != "" {
		dirs = append(dirs, n.bin)
	}
	if !n.dir.DropIn {
		return dirs
	}
	files, err := n.dir.Look()
	if err != nil {
		return dirs // which the next look reports
	}
	for _, f := range files {
		if f.State == confdir.Chained {
			dirs = append(dirs, filepath.Join(n.dir.Path, f.Network))
		}
	}
	return dirs
}
