// Command podwalld is the node daemon: it knows the policies, compiles each
// pod's rule set, keeps it in its database, and keeps live pods current.
//
//	manifests ─▶ source ─▶ reconcile.Keeper ─▶ nftables in the pods' namespaces
//	                         ▲   │      ▲
//	plugin, policyctl ─▶ server  │      └─ sweep: what nobody tells
//	                             ▼
//	                           store (state.db)
//
// # Contract
//
// A signal to terminate stops the serving and leaves every rule in place; the
// daemon exits 0 within five seconds. SIGHUP reads the configuration again. What
// can't be served is an error that names the field or the file, and exit status 1
// (2 for a wrong command line).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/version"
)

// stopWithin is how long stopping may take: less than the five seconds promised.
const stopWithin = 4500 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	saveMemory(readPercent)
	signal.Ignore(unix.SIGPIPE) // whoever reads the log may go; the daemon stays
	// What hangs when it should stop, a disk say, has five seconds. Whatever was
	// answered is stored, and the rules are the kernel's.
	context.AfterFunc(ctx, func() {
		time.Sleep(stopWithin)
		fmt.Fprintf(os.Stderr, "podwalld: not stopped after %s: left as it is\n", stopWithin)
		os.Exit(0)
	})
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fail := func(status int, err error) int {
		fmt.Fprintf(stderr, "podwalld: %v\n", err)
		return status
	}
	if len(args) == 1 && args[0] == probe.Hold {
		probe.Wait(os.Stdin)
		return 0
	}
	read, err := commandLine(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return fail(2, err)
	}
	cfg, err := read()
	if err != nil {
		return fail(1, err)
	}
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	d := &daemon{cfg: cfg, read: read, level: level, log: logger(cfg.LogFormat, level, stderr),
		probe: func() (probe.Lacks, error) { return probe.Kernel(probe.Scratch, nft.Apply) }}
	if err := d.run(ctx); err != nil {
		return fail(1, err)
	}
	return 0
}

// commandLine returns a function that reads the configuration: the file that
// --config names, and the flags over it. It may be called again.
func commandLine(args []string, stdout io.Writer) (func() (daemonconf.Config, error), error) {
	type setting struct{ flag, text string }
	var settings []setting
	fs := flag.NewFlagSet("podwalld", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("config", "", "YAML file; every flag has a field of the same name there, and wins over it")
	show := fs.Bool("version", false, "print the version and exit")
	for _, f := range daemonconf.Fields() {
		fs.Func(f.Flag, f.Usage, func(text string) error {
			settings = append(settings, setting{f.Flag, text})
			return nil
		})
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return nil, err
	case err != nil:
		return nil, err
	case fs.NArg() > 0:
		return nil, fmt.Errorf("argument %q: podwalld takes flags only", fs.Arg(0))
	case *show:
		fmt.Fprintln(stdout, "podwalld", version.Version)
		return nil, flag.ErrHelp
	}
	over := func(cfg daemonconf.Config) (daemonconf.Config, error) {
		for _, s := range settings {
			if err := cfg.Set(s.flag, s.text); err != nil {
				return cfg, err
			}
		}
		return cfg, nil
	}
	if _, err := over(daemonconf.Default()); err != nil {
		return nil, err // a wrong command line, not a wrong file
	}
	return func() (cfg daemonconf.Config, err error) {
		cfg = daemonconf.Default()
		if *file != "" {
			cfg, err = daemonconf.Load(*file)
		}
		if err == nil {
			cfg, err = over(cfg)
		}
		if err == nil {
			err = cfg.Validate()
		}
		return cfg, err
	}, nil
}

func usage(w io.Writer) {
	fmt.Fprint(w, "podwalld is the node daemon of podwall, a firewall for every pod.\n\nUsage: podwalld [flags]\n\n")
	fmt.Fprintf(w, "  --%-18s %s\n", "config", "YAML file; every flag has a field of the same name there, and wins over it")
	for _, f := range daemonconf.Fields() {
		fmt.Fprintf(w, "  --%-18s %s", f.Flag, f.Usage)
		if f.Default != "" {
			fmt.Fprintf(w, " (default %s)", f.Default)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  --%-18s %s\n", "version", "print the version and exit")
}

func logger(format daemonconf.LogFormat, level slog.Leveler, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == daemonconf.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
