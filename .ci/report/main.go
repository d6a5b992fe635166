// Command report makes the output of go test -json readable.
//
// It prints what go test would print without -json. With -count it prints
// nothing but the tests that failed or were skipped, and as its last line
//
//	N passed, N failed
//
// # Contract
//
// The exit status is 1 if a test failed, a package did not build, a test was
// skipped, or there was no test at all: a check that did not run has not passed.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	count := flag.Bool("count", false, "count tests instead of printing what they print")
	flag.Parse()
	ok, err := report(os.Stdin, os.Stdout, *count)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// An event is a line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	FailedBuild string
}

// A tally is what became of the tests so far.
type tally struct {
	passed  int
	failed  []string
	skipped []string
	output  map[string]*strings.Builder // by test, while it runs
}

// report reads events and prints them to w. It is false if anything failed or
// was skipped, or if with count there was no test.
func report(r io.Reader, w io.Writer, count bool) (bool, error) {
	t := tally{output: make(map[string]*strings.Builder)}
	text := w
	if count {
		text = io.Discard
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(text, lines.Text()) // go itself speaks plainly
			continue
		}
		t.add(e, text)
	}
	if count {
		t.print(w)
	}
	return len(t.failed)+len(t.skipped) == 0 && (!count || t.passed > 0), lines.Err()
}

// add counts e and prints to w what go test would print now.
func (t *tally) add(e event, w io.Writer) {
	name := strings.TrimSpace(e.Package + " " + e.Test)
	if e.Test == "" {
		t.addPackage(e, w)
		return
	}
	switch e.Action {
	case "output":
		if strings.HasPrefix(e.Output, "=== ") { // RUN, PAUSE, CONT: test2json makes go test say them
			return
		}
		if t.output[name] == nil {
			t.output[name] = new(strings.Builder)
		}
		t.output[name].WriteString(e.Output)
		return
	case "pass":
		t.passed++
	case "fail":
		t.failed = append(t.failed, name)
	case "skip":
		t.skipped = append(t.skipped, name)
	default:
		return
	}
	if b := t.output[name]; b != nil && e.Action != "pass" {
		fmt.Fprint(w, b)
	}
	delete(t.output, name)
}

// addPackage is add for what no single test said. A package that fails although
// none of its tests did (it does not build, or died) counts as a test.
func (t *tally) addPackage(e event, w io.Writer) {
	switch e.Action {
	case "output", "build-output":
		if e.Output != "PASS\n" && !strings.HasSuffix(e.Output, "[no test files]\n") {
			fmt.Fprint(w, e.Output)
		}
	case "fail":
		prefix := e.Package + " "
		for name, b := range t.output { // tests that were running when it died
			if strings.HasPrefix(name, prefix) {
				fmt.Fprint(w, b)
				delete(t.output, name)
			}
		}
		if !slices.ContainsFunc(t.failed, func(f string) bool { return strings.HasPrefix(f, prefix) }) {
			t.failed = append(t.failed, e.Package)
		}
	}
}

// print writes the summary.
func (t *tally) print(w io.Writer) {
	for _, name := range t.failed {
		fmt.Fprintln(w, "failed:", name)
	}
	for _, name := range t.skipped {
		fmt.Fprintln(w, "skipped, which counts as failed:", name)
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", t.passed, len(t.failed)+len(t.skipped))
}
