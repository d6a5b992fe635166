package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/api"
)

const (
	patience = 5 * time.Second  // for an answer of the daemon's
	lagging  = 30 * time.Second // a source that is silent for longer is reported
)

// A daemon is what podwalld says, or why it says nothing: then only the check
// daemon is of use.
type daemon struct {
	Node
	status api.Status
	err    error
}

func (n Node) status(ctx context.Context) (st api.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return st, n.Ask(ctx, api.VerbStatus, &st)
}

// socket looks at the daemon's socket without connecting to it.
func (n Node) socket(context.Context) []Result {
	const check = "socket"
	fi, err := os.Lstat(n.Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return result(check, Failed, n.Socket+" does not exist: podwalld does not run, or listens elsewhere",
			"systemctl start podwalld; if it listens elsewhere, say where with --socket")
	case err != nil:
		return unknown(check, err, "run policyctl doctor as root")
	case fi.Mode().Type() != fs.ModeSocket:
		return result(check, Failed, n.Socket+" is no socket", "remove it and start podwalld")
	case fi.Mode().Perm() != 0o600:
		return result(check, Failed, fmt.Sprintf("%s has mode %04o: others than root may connect, though podwalld refuses them", n.Socket, fi.Mode().Perm()),
			"restart podwalld, and find out who changed it")
	}
	return fine(check, "%s, mode 0600", n.Socket)
}

func (d daemon) daemon(context.Context) []Result {
	const check = "daemon"
	switch {
	case errors.Is(d.err, os.ErrPermission):
		return unknown(check, d.err, "run policyctl doctor as root")
	case d.err != nil:
		return result(check, Failed, fmt.Sprintf("%v; rules stay in place, but no pod can start and no change of policy arrives", d.err),
			"systemctl status podwalld; journalctl -u podwalld")
	case !d.status.Ready:
		return result(check, Failed, fmt.Sprintf("podwalld on %s can't serve ADD: %s", d.status.Node, d.status.Reason), "journalctl -u podwalld")
	}
	return fine(check, "podwalld serves on %s, since %s", d.status.Node, d.status.StartedAt.UTC().Format("2006-01-02 15:04:05 MST"))
}

func (d daemon) version(context.Context) []Result {
	const check = "version"
	if d.status.Version != d.Version {
		return result(check, Warning, fmt.Sprintf("podwalld is %s, policyctl %s", d.status.Version, d.Version),
			"install all of podwall's binaries from one release, then restart podwalld")
	}
	return fine(check, "podwalld and policyctl are %s", d.Version)
}

func (d daemon) source(context.Context) []Result {
	const check = "source"
	s := d.status.Source
	if !s.Synced {
		return result(check, Failed, fmt.Sprintf("%s %s: not read yet; pods wait", s.Kind, s.Location),
			"see that it exists and can be read, or that the API server can be reached; journalctl -u podwalld")
	}
	var objects []string
	for _, kind := range slices.Sorted(maps.Keys(s.Objects)) {
		objects = append(objects, fmt.Sprintf("%d %s", s.Objects[kind], kind))
	}
	found := fmt.Sprintf("%s %s: %s", s.Kind, s.Location, strings.Join(objects, ", "))
	if len(objects) == 0 {
		return result(check, Warning, found+"nothing: no pod is isolated", "put policies there, or name another source")
	}
	switch {
	case s.Lag > lagging:
		return result(check, Warning, fmt.Sprintf("%s; what it says has not come through for %s: the node goes on with what it knew", found, s.Lag.Round(time.Second)),
			"look at the way to the API server, and at podwalld's permissions; journalctl -u podwalld")
	case !s.KnownAt.IsZero():
		return result(check, Warning, fmt.Sprintf("%s; not all of it has been read since podwalld started: what was known at %s is in force", found, s.KnownAt.UTC().Format("2006-01-02 15:04:05 MST")),
			"look at the way to the API server; journalctl -u podwalld")
	}
	return fine(check, "%s", found)
}

// problems are what the daemon can't honour. Those of the kernel are this
// examination's own.
func (d daemon) problems(context.Context) []Result {
	const check = "policy"
	var all []Result
	for _, p := range d.status.Problems {
		if !strings.HasPrefix(p.Object, "kernel ") {
			all = append(all, Result{Check: check, Verdict: Warning, Found: p.String(),
				Advice: "correct the object; a policy that can't be honoured isolates its pods and admits nobody"})
		}
	}
	if len(all) == 0 {
		return fine(check, "all of it can be honoured")
	}
	return all
}

func (d daemon) store(context.Context) []Result {
	const check = "store"
	s := d.status.Store
	free, err := d.Free(d.at(s.Path))
	found := fmt.Sprintf("%s: %d KiB, %d MiB free", s.Path, s.Bytes>>10, free>>20)
	switch {
	case err != nil:
		return unknown(check, err, "see that the directory of "+s.Path+" exists")
	case free < 16<<20:
		return result(check, Failed, found, "make room: an ADD that can't be stored fails")
	case s.Note != "":
		return result(check, Warning, found+": "+s.Note, "podwalld goes on; keep the file that was set aside for a bug report")
	case free < 256<<20:
		return result(check, Warning, found, "make room: an ADD that can't be stored fails")
	}
	return fine(check, "%s", found)
}

// What to do about an attachment in a state that is not Enforced.
var states = map[api.State]struct {
	verdict Verdict
	advice  string
}{
	api.StatePending:     {Warning, "wait a few seconds and look again"},
	api.StateError:       {Failed, "journalctl -u podwalld; the rules before stand, and podwalld tries again"},
	api.StateDrifted:     {Failed, "journalctl -u podwalld names who changed them; podwalld repairs them"},
	api.StateUnprotected: {Warning, "docs/configuration.md, pods that rules in their namespace don't bind"},
}

// pods looks at the attachments' states.
func (d daemon) pods(ctx context.Context) []Result {
	const check = "pods"
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var pods []api.PodSummary
	if err := d.Ask(ctx, api.VerbPods, &pods); err != nil {
		return unknown(check, err, "journalctl -u podwalld")
	}
	var all []Result
	for _, p := range pods {
		if s, bad := states[p.Status.State]; bad {
			all = append(all, Result{Check: check, Verdict: s.verdict, Advice: s.advice,
				Found: join(fmt.Sprintf("%s, %s: %s", p.Pod(), p.Interface, p.Status.State), p.Status.Message)})
		}
	}
	if len(all) == 0 {
		return fine(check, "%d attachments, all with the rules that policy wants", len(pods))
	}
	return all
}
