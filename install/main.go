// Command podwall-install puts podwall on a node: the binaries into their
// directories, and the plugin into every network that a container runtime may
// give a pod.
//
//	install   once
//	run       the same, and again whenever somebody undoes it, until SIGTERM
//	status    what is in place and what is wrong
//	remove    the networks first, the binary when no sandbox needs it any more
//
// # Contract
//
// A runtime never reads a file that is half written, nor meets a network whose
// plugin is not there: binaries come before networks, and go after them. All
// commands may be repeated, interrupted and killed. What stops, fails or is killed
// leaves podwall in place where it was: only remove takes it away.
//
// Exit status: 0 done; 1 failed, or something is not as it should be; 2 wrong
// usage; 3 (remove) sandboxes still need the plugin, so its binary stays.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{stdout: os.Stdout, stderr: os.Stderr, executable: os.Executable, getenv: os.Getenv}
	status := p.run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

// A program is podwall-install. Its fields are everything it touches outside its
// own memory, but for the files, which flags name.
type program struct {
	stdout, stderr io.Writer
	executable     func() (string, error) // the path of this program
	getenv         func(string) string
}

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitNeeded = 3
)

// A failure is an error of a command that began its work, or the exit status
// alone, where the command itself has said why. All other errors are about the
// command line.
type failure struct {
	status int
	err    error
}

func (f *failure) Error() string { return fmt.Sprint(f.err) }
func (f *failure) Unwrap() error { return f.err }

// run does what the arguments say and returns the exit status.
func (p program) run(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{exitUsage, err}
	}
	if f.err != nil {
		for line := range strings.SplitSeq(f.err.Error(), "\n") { // joined errors
			fmt.Fprintf(p.stderr, "podwall-install: %s\n", line)
		}
	}
	return f.status
}

// root builds the command tree.
func (p program) root() *cobra.Command {
	n := &node{program: p, entry: netconf.Default(), policy: netconf.Default().FailurePolicy.String(), same: map[binary][2]stamp{}}
	cmd := &cobra.Command{
		Use:   "podwall-install",
		Short: "Put podwall on this node, and keep it there",
		Long: `podwall-install copies podwall's binaries to a node and chains the plugin into
every network that a container runtime may give a pod.`,
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.SetOut(p.stdout)
	cmd.SetErr(p.stderr)
	flags := cmd.PersistentFlags()
	flags.StringVar(&n.source, "source", p.here(), "`DIR` that holds the binaries")
	flags.StringVar(&n.cniBin, "cni-bin-dir", "/opt/cni/bin", "`DIR` where the runtime looks for plugins")
	flags.StringVar(&n.bin, "bin-dir", "", "`DIR` for the binaries that people and systemd call; none are copied without it")
	flags.StringVar(&n.dir.Path, "cni-conf-dir", "/etc/cni/net.d", "`DIR` where the runtime looks for networks")
	flags.StringVar(&n.cache, "cni-cache-dir", "/var/lib/cni", "`DIR` where libcni remembers sandboxes")
	flags.StringVar(&n.root, "host-root", "/", "`DIR` where the node's own files are, to look for network namespaces")
	cmd.AddCommand(n.installCommand(), n.runCommand(), n.statusCommand(), n.removeCommand())
	return cmd
}

// here is the directory of this program, where the image and the packages have
// the other binaries too.
func (p program) here() string {
	path, err := p.executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(path)
}

// does makes fn what a command does, and its errors failures.
func does(fn func(context.Context) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		err := fn(cmd.Context())
		var f *failure
		if err == nil || errors.As(err, &f) {
			return err
		}
		return &failure{exitFailed, err}
	}
}
