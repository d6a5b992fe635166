package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/install/confdir"
	"github.com/podwall/podwall/install/sandbox"
)

func (n *node) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is in place and what is wrong",
		Long: `status shows the binaries, the networks and what podwall is to each of them. Give
it the flags that install was given. It exits 0 if everything is as install would
make it, and 1 if not.`,
	}
	n.entryFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("--output %q: want table or json", output)
		}
		return check(cmd, args)
	}
	cmd.RunE = does(func(context.Context) error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if output == "json" {
			err = n.printJSON(s)
		} else {
			err = n.printTable(s)
		}
		if err == nil && !s.OK {
			err = &failure{status: exitFailed}
		}
		return err
	})
	return cmd
}

// A status is all there is to know about a node.
type status struct {
	OK       bool           `json:"ok"`
	Binaries []binary       `json:"binaries"`
	Networks []confdir.File `json:"networks"`
	// Sandboxes is how many of the node's pods have podwall in their chain.
	Sandboxes int      `json:"sandboxes"`
	Problems  []string `json:"problems,omitempty"`
}

// status looks at the node. What can't be read is a problem.
func (n *node) status() (status, error) {
	s := status{Networks: []confdir.File{}} // which JSON shows as a list
	for _, b := range n.binaries() {
		_, state, err := n.compare(b)
		b.State = state
		s.Binaries = append(s.Binaries, b)
		switch {
		case b.good():
		case err != nil:
			s.Problems = append(s.Problems, err.Error())
		default:
			s.Problems = append(s.Problems, fmt.Sprintf("%s: %s", b.Path, state))
		}
	}
	files, err := n.dir.Look()
	if err != nil {
		return s, err
	}
	s.Networks = append(s.Networks, files...)
	for _, f := range s.Networks {
		switch {
		case f.Problem != "":
			s.Problems = append(s.Problems, problem(f))
		case f.State == confdir.Unprotected:
			s.Problems = append(s.Problems, fmt.Sprintf("%s: podwall is not chained as install would do it", f.Path))
		}
	}
	if (plan{files: s.Networks}).waiting() {
		s.Problems = append(s.Problems, fmt.Sprintf("%s: no network that a runtime could give a pod", n.dir.Path))
	}
	s.OK = !slices.ContainsFunc(s.Binaries, func(b binary) bool { return !b.good() }) &&
		!slices.ContainsFunc(s.Networks, func(f confdir.File) bool { return f.State == confdir.Unprotected }) &&
		!(plan{files: s.Networks}).waiting()
	sandboxes, err := sandbox.Find(n.cache, n.root)
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	s.Sandboxes = len(sandboxes)
	return s, nil
}

// good reports whether a binary is in place, as far as one can tell.
func (b binary) good() bool { return b.State == current || b.State == present }

func (n *node) printJSON(s status) error {
	enc := json.NewEncoder(n.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(s)
}

func (n *node) printTable(s status) error {
	w := tabwriter.NewWriter(n.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "BINARY\tSTATE\n")
	for _, b := range s.Binaries {
		fmt.Fprintf(w, "%s\t%s\n", b.Path, b.State)
	}
	fmt.Fprint(w, "\nNETWORK\tSTATE\tSELECTED\tVERSION\tPLUGINS\tFILE\n")
	for _, f := range s.Networks {
		selected := ""
		if f.Selected {
			selected = "yes"
		}
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\t%s\n", dash(f.Network), f.State, dash(selected), dash(f.CNIVersion), dash(strings.Join(f.Plugins, ", ")), f.Path)
	}
	fmt.Fprintf(w, "\nsandboxes with podwall: %d\n", s.Sandboxes)
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
