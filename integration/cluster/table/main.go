// Command table makes a table, and JUnit files, of what go test -json says of
// the suites in e2e.
//
//	go test -json ./e2e | table -junit DIR
//
// A row is a suite on a cluster: a test directly below a top-level one. Its cases
// are the tests below it that have none below themselves. A top-level test that
// never came to its suites is a row too. So is each package of the product that has
// tests with an API server alone.
//
// # Contract
//
// What tests print goes through as it comes, to standard error; the table goes to
// standard output when all is over. The exit status is 1 if a case failed, a test
// binary died, or there was no case at all.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	junit := flag.String("junit", "", "the `directory` of the JUnit files; none if empty")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, os.Stderr, *junit); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out, log io.Writer, junit string) error {
	r := results{cases: make(map[string]*result)}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(log, lines.Text()) // go itself speaks plainly
			continue
		}
		r.add(e, log)
	}
	rows := r.rows()
	print(out, rows)
	err := lines.Err()
	if junit != "" {
		err = errors.Join(err, writeJUnit(junit, rows))
	}
	ran, failed := 0, 0
	for _, row := range rows {
		ran, failed = ran+row.passed+row.failed, failed+row.failed
	}
	if r.died || failed > 0 || ran == 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d cases failed", failed, ran))
	}
	return err
}

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// place puts a test of the product where a cluster's would be.
func (e event) place() string {
	if name := path.Base(e.Package); e.Package != "" && name != "e2e" {
		return "TestWithoutNodes/" + name + "/" + e.Test
	}
	return e.Test
}

// A result is what became of one test.
type result struct {
	name   string
	state  string // pass, fail or skip; empty while it runs
	took   time.Duration
	output strings.Builder
	parent bool
}

// results are those of all tests, and of the test binary.
type results struct {
	order []string
	cases map[string]*result
	died  bool // the binary failed, whatever its tests say
}

func (r *results) add(e event, log io.Writer) {
	if e.Output != "" && !strings.HasPrefix(e.Output, "=== ") {
		fmt.Fprint(log, e.Output)
	}
	if e.Test == "" {
		r.died = r.died || e.Action == "fail"
		return
	}
	name := e.place()
	t := r.cases[name]
	if t == nil {
		t = &result{name: name}
		r.cases[name] = t
		r.order = append(r.order, name)
		if i := strings.LastIndex(name, "/"); i >= 0 && r.cases[name[:i]] != nil {
			r.cases[name[:i]].parent = true
		}
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.state, t.took = e.Action, time.Duration(e.Elapsed*float64(time.Second))
	}
}

// A row is what became of one suite.
type row struct {
	suite                   string
	cases                   []*result
	passed, failed, skipped int
	reasons                 []string // why cases were skipped, each once
	took                    time.Duration
}

// rows are the suites, in the order in which they began.
func (r *results) rows() []*row {
	var all []*row
	byName := make(map[string]*row)
	for _, name := range r.order {
		parts := strings.SplitN(name, "/", 3)
		suite := strings.Join(parts[:min(2, len(parts))], " ")
		t := r.cases[name]
		if len(parts) == 1 && t.parent && !r.failedAlone(name) {
			continue // a cluster, whose suites say how it went
		}
		w := byName[suite]
		if w == nil {
			w = &row{suite: strings.TrimPrefix(strings.ReplaceAll(suite, "_", " "), "Test")}
			byName[suite] = w
			all = append(all, w)
		}
		switch {
		case len(parts) <= 2:
			w.took = t.took
		case r.cases[strings.Join(parts[:2], "/")] == nil && !strings.Contains(parts[2], "/"):
			w.took += t.took // the suite is a package, and no test of its own
		}
		if !t.parent || r.failedAlone(name) {
			w.count(t)
		}
	}
	return all
}

// failedAlone says whether a test failed although none of those below it did.
func (r *results) failedAlone(name string) bool {
	return r.cases[name].state != "pass" && r.cases[name].parent && !slices.ContainsFunc(r.order, func(other string) bool {
		return strings.HasPrefix(other, name+"/") && r.cases[other].state != "pass" && r.cases[other].state != "skip"
	})
}

func (w *row) count(t *result) {
	w.cases = append(w.cases, t)
	switch t.state {
	case "pass":
		w.passed++
	case "skip":
		w.skipped++
		if why := t.reason(); !slices.Contains(w.reasons, why) {
			w.reasons = append(w.reasons, why)
		}
	default: // one that never ended died with the binary
		w.failed++
	}
}

var told = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// reason is what a test said when it was skipped.
func (t *result) reason() string {
	if m := told.FindStringSubmatch(t.output.String()); m != nil {
		return m[1]
	}
	return "no reason given"
}

func print(w io.Writer, rows []*row) {
	fmt.Fprintln(w, "| suite | run | passed | failed | skipped | minutes |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	for _, r := range rows {
		skipped := fmt.Sprint(r.skipped)
		if r.skipped > 0 {
			skipped += ": " + strings.Join(r.reasons, "; ")
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d | %s | %.1f |\n", r.suite, r.passed+r.failed, r.passed, r.failed, skipped, r.took.Minutes())
	}
}
