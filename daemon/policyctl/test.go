package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/policyctl/expect"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
)

// A trial is what test's flags and arguments say.
type trial struct {
	dir, junit string
	strict     bool
	files      []string
}

// test builds `policyctl test`.
func (c *cli) test() *cobra.Command {
	var opts trial
	cmd := &cobra.Command{
		Use:   "test -f DIR EXPECTATIONS.yaml...",
		Short: "Check that policies do what is expected of them",
		Long: `test compares what the manifests in DIR allow and deny with what the files expect,
and explains each difference. It asks neither the daemon nor the kernel. The exit
status is 1 if an expectation is not met, and 2 if a file can't be understood.

A file is a list of expectations:

  - name: the shop's front door      # optional
    from: shop/web                   # NAMESPACE/POD or an address, or a list
    to: shop/api                     # also svc/NAMESPACE/SERVICE
    port: 8080                       # or ports: [8080, 8443]
    protocol: TCP                    # the default; or UDP, SCTP
    expect: allow                    # or deny
    because: shop/api                # optional: the policy that decides

Pods count, not what makes them: a Deployment is not read, a Pod with its labels
stands for it. One without addresses, as before it was ever created, is judged at
one that is made up. Problems in the manifests are reported on stderr; with
--strict they are failures.`,
		Example: `  policyctl test -f manifests expectations.yaml
  policyctl test -f manifests --strict --junit report.xml tests/*.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%s: want at least one file of expectations", cmd.Name())
			}
			return nil
		},
		RunE: does(func(_ context.Context, args []string) error {
			opts.files = args
			return c.runTest(opts)
		}),
		ValidArgsFunction: cobra.FixedCompletions([]cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt),
	}
	f := cmd.Flags()
	f.StringVarP(&opts.dir, "file", "f", "", "`DIR` of manifests")
	f.StringVar(&opts.junit, "junit", "", "write a JUnit report to this `FILE`, too")
	f.BoolVar(&opts.strict, "strict", false, "fail if there are problems in the manifests")
	require(cmd, "file")
	if err := cmd.MarkFlagDirname("file"); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
	return cmd
}

func (c *cli) runTest(opts trial) error {
	list, err := readExpectations(opts.files)
	if err != nil {
		return &usageError{err}
	}
	world, err := c.rehearsal(opts.dir)
	if err != nil {
		return &usageError{err}
	}
	results, err := judgeAll(expect.NewCluster(world.Snapshot), list)
	if err != nil {
		return &usageError{err}
	}
	r := reportOf(results, world.Problems, opts.strict)
	if opts.junit != "" {
		if err := writeJUnit(opts.junit, r); err != nil {
			return err
		}
	}
	if err := c.show(r, func(p *page) { drawReport(p, r) }); err != nil {
		return err
	}
	return r.err()
}

// readExpectations reads all files, and reports what is wrong in any.
func readExpectations(files []string) ([]expect.Expectation, error) {
	var (
		all  []expect.Expectation
		errs []error
	)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("read expectations: %w", err))
			continue
		}
		list, err := expect.Parse(file, b)
		errs = append(errs, err)
		all = append(all, list...)
	}
	return all, errors.Join(errs...)
}

func judgeAll(cluster *expect.Cluster, list []expect.Expectation) ([]expect.Result, error) {
	var (
		all  []expect.Result
		errs []error
	)
	for _, e := range list {
		results, err := cluster.Judge(e)
		errs = append(errs, err)
		all = append(all, results...)
	}
	return all, errors.Join(errs...)
}

// A report is the result of a test, as -o json shows it.
type report struct {
	Passed   int           `json:"passed"`
	Failed   int           `json:"failed"`
	Strict   bool          `json:"strict"`
	Results  []reported    `json:"results"`
	Problems []api.Problem `json:"problems"` // of the manifests; failures if Strict
}

// A reported is what became of one flow.
type reported struct {
	File        string          `json:"file"`
	Line        int             `json:"line"` // of the expectation
	Name        string          `json:"name,omitempty"`
	Flow        flow            `json:"flow"`
	Expect      expect.Verdict  `json:"expect"`
	Because     string          `json:"because,omitempty"`
	Passed      bool            `json:"passed"`
	Missed      string          `json:"missed,omitempty"` // in a few words
	Explanation api.Explanation `json:"explanation"`
}

// A flow is the connection that an expectation is about.
type flow api.ExplainRequest

// String is the flow as people read it.
func (f flow) String() string {
	return fmt.Sprintf("%s → %s %s %d", f.From, f.To, f.Protocol, f.Port)
}

// reportOf counts results.
func reportOf(results []expect.Result, problems []api.Problem, strict bool) report {
	r := report{Strict: strict, Results: []reported{}, Problems: append([]api.Problem{}, problems...)}
	for _, x := range results {
		e := x.Expectation
		r.Results = append(r.Results, reported{File: e.File, Line: e.Line, Name: e.Name, Flow: flow(x.Flow), Expect: e.Expect,
			Because: e.Because, Passed: x.Missed == "", Missed: x.Missed, Explanation: x.Explanation})
		if x.Missed == "" {
			r.Passed++
		} else {
			r.Failed++
		}
	}
	return r
}

// err is why the test failed, or nil.
func (r report) err() error {
	switch {
	case r.Failed > 0:
		return fmt.Errorf("test: %d of %s not as expected", r.Failed, many(uint64(r.Passed+r.Failed), "flow is", "flows are"))
	case r.Strict && len(r.Problems) > 0:
		return fmt.Errorf("test: %s in the manifests", many(uint64(len(r.Problems)), "problem", "problems"))
	}
	return nil
}

// drawReport draws a line for each flow and, below those that are not as
// expected, why:
//
//	✓ shop/web → shop/api TCP 8080: allow   the shop's front door
//	✗ shop/batch → shop/api TCP 8080: want allow, is denied   (shop.yaml, line 7)
//	    ✓ egress    no policy selects shop/batch for egress
//	    ✗ ingress   isolated by shop/api; no rule accepts TCP 8080 from shop/batch
//
//	1 passed, 1 failed
func drawReport(p *page, r report) {
	for _, x := range r.Results {
		if x.Passed {
			p.line(green.in("✓ "), plainf("%s: %s", x.Flow, x.Expect), named(x.Name))
			continue
		}
		p.line(red.in("✗ "), bold.in(x.Flow.String()), plainf(": want %s, %s", x.Expect, x.Missed), named(x.Name),
			dim.in(fmt.Sprintf("   (%s, line %d)", x.File, x.Line)))
		p.line(plain(" "), opinion("egress", x.Explanation.Egress))
		p.line(plain(" "), opinion("ingress", x.Explanation.Ingress))
	}
	p.gap()
	failed := dim
	if r.Failed > 0 {
		failed = red
	}
	p.line(green.in(fmt.Sprintf("%d passed", r.Passed)), plain(", "), failed.in(fmt.Sprintf("%d failed", r.Failed)))
}

// named is the name that an expectation has, if it has one.
func named(name string) text {
	if name == "" {
		return nil
	}
	return dim.in("   " + name)
}

// because is the reasons of x's explanation, for readers without colours.
func (x reported) because() string {
	var lines []string
	for _, o := range []struct {
		direction string
		api.Opinion
	}{{"egress", x.Explanation.Egress}, {"ingress", x.Explanation.Ingress}} {
		mark := "✗"
		if o.Verdict == explain.Allow {
			mark = "✓"
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", mark, o.direction, o.Reason))
	}
	return strings.Join(lines, "\n")
}
