package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/internal/api"
)

// A Verdict is what a check says about its subject.
type Verdict string

const (
	Unknown Verdict = "unknown" // it could not be found out
	Failed  Verdict = "failed"  // podwall does not do here what it promises
	Warning Verdict = "warning" // it does, with less than it could have
	OK      Verdict = "ok"
)

// A Result is what one check found.
type Result struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Advice  string  `json:"advice,omitempty"`
}

// A Node is what an examination touches.
type Node struct {
	Root       string // where the node's files are: "/", but in tests
	Socket     string // of the daemon, as this process sees it
	CNIBin     string // the plugins' directory
	CNIConf    string // the networks' directory; empty asks the runtimes' configuration
	CNICache   string // libcni's cache
	Version    string // of this program
	Privileged bool   // this process may see and try everything

	// Ask puts a question to the daemon.
	Ask func(ctx context.Context, verb api.Verb, answer any) error
	// Probe tries the kernel.
	Probe func() (probe.Lacks, error)
	// Run runs a program, with nothing in its environment, and returns what it says.
	Run func(ctx context.Context, path string, args ...string) (string, error)
	// Synchronised reports whether the clock is kept right.
	Synchronised func() (bool, error)
	// Free says how many bytes are left where a file is.
	Free func(path string) (uint64, error)
	Now  func() time.Time
}

// Examine makes all checks, in the order in which people should read them.
func (n Node) Examine(ctx context.Context) []Result {
	st, err := n.status(ctx)
	d := daemon{Node: n, status: st, err: err}
	checks := []func(context.Context) []Result{n.kernel, n.connections, n.settings, n.plugin, n.chain, n.lastPod, n.clock, n.socket, d.daemon}
	if err == nil {
		checks = append(checks, d.version, d.source, d.problems, d.store, d.pods)
	}
	var all []Result
	for _, check := range checks {
		all = append(all, check(ctx)...)
	}
	if err != nil {
		all = append(all, Result{Check: "all else", Verdict: Unknown, Found: "version, source, policy, store and pods are podwalld's to tell", Advice: "see the check daemon"})
	}
	return all
}

// Failures counts what failed.
func Failures(all []Result) int {
	return len(slices.DeleteFunc(slices.Clone(all), func(r Result) bool { return r.Verdict != Failed }))
}

// at is a path of the node's as this process sees it.
func (n Node) at(path string) string { return filepath.Join(n.Root, path) }

// shown is a path of this process's as people on the node know it.
func (n Node) shown(path string) string {
	return filepath.Join("/", strings.TrimPrefix(path, filepath.Clean(n.Root)))
}

// file is the content of a file of the node's.
func (n Node) file(path string) (string, error) {
	b, err := os.ReadFile(n.at(path))
	return string(b), err
}

// result makes a Result of one check.
func result(check string, v Verdict, found, advice string) []Result {
	return []Result{{Check: check, Verdict: v, Found: found, Advice: advice}}
}

func unknown(check string, err error, advice string) []Result {
	return result(check, Unknown, err.Error(), advice)
}

func fine(check, format string, args ...any) []Result {
	return result(check, OK, fmt.Sprintf(format, args...), "")
}
