package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/podwall/podwall/daemon/doctor"
	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/manifest"
	"github.com/podwall/podwall/internal/api"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == probe.Hold { // doctor has started itself
		probe.Wait(os.Stdin)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		now:      time.Now,
		read:     manifest.Read,
		node:     doctor.ThisMachine(),
		terminal: term.IsTerminal(int(os.Stdout.Fd())),
		noColor:  os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb",
	}
	status := p.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

// A program is policyctl. Its fields are everything it touches outside its own
// memory, but for the daemon's socket, which a flag names.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	read           func(dir string) source.World // the manifests in dir
	node           doctor.Node                   // this machine
	terminal       bool                          // stdout is one
	noColor        bool                          // the environment wants none
}

// The exit statuses.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
)

// run does what the arguments say and returns the exit status.
func (p program) run(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if !errors.Is(err, errDenied) {
		fmt.Fprintf(p.stderr, "policyctl: %s%s\n", oneLine(err.Error()), advice(err))
	}
	return exitStatus(err)
}

// errDenied is how explain --exit-code says Deny: an exit status, no message.
var errDenied = errors.New("denied")

// A failure is an error of a command that began its work. All other errors are
// about the command line.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// A usageError is a mistake in the command line that only the command's own code
// could see.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func exitStatus(err error) int {
	var (
		f *failure
		u *usageError
	)
	switch {
	case !errors.As(err, &f), errors.As(err, &u):
		return exitUsage
	case unreachable(err):
		return exitUnreachable
	}
	return exitFailed
}

// unreachable reports whether no answer came. A daemon that answers that it
// can't serve now has been reached.
func unreachable(err error) bool {
	var refusal *api.Error
	return errors.Is(err, api.ErrUnavailable) && !errors.As(err, &refusal)
}

// advice is what to do about err, where that is known.
func advice(err error) string {
	if unreachable(err) && errors.Is(err, os.ErrPermission) {
		return " (only root may talk to the daemon)"
	}
	return ""
}

// oneLine is a message on one line.
func oneLine(s string) string {
	var b strings.Builder
	for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		switch sofar := b.String(); {
		case strings.HasSuffix(sofar, ":"), strings.HasSuffix(sofar, ";"):
			b.WriteByte(' ')
		case sofar != "":
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimSpace(line))
	}
	return clean(b.String())
}
