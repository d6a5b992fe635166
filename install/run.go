package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/install/change"
	"github.com/podwall/podwall/install/heal"
)

func (n *node) runCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Install, and again whenever somebody undoes it, until SIGTERM",
		Long: `run does what install does, waits for networks that are not there yet, and puts
the plugin back whenever another program changes a network or a binary: at once,
but not more than once a second, and less often if that does not help. When it is stopped, everything stays in place,
unless the DaemonSet that it belongs to was deleted.`,
	}
	n.entryFlags(cmd)
	n.clusterFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "log-json", false, "log as JSON, one object a line")
	cmd.RunE = does(func(ctx context.Context) error {
		var h slog.Handler = slog.NewTextHandler(n.stderr, nil)
		if asJSON {
			h = slog.NewJSONHandler(n.stderr, nil)
		}
		return n.keep(ctx, slog.New(h))
	})
	return cmd
}

// keep works until ctx ends.
func (n *node) keep(ctx context.Context, log *slog.Logger) error {
	r := reporter{log: log, dir: n.dir.Path, told: map[string]string{}}
	h := heal.Healer{
		Plan:  func() ([]change.Change, error) { return n.look(&r) },
		Apply: n.apply,
		Watch: func() heal.Watch { return heal.Dirs(n.dirs()...) },
		Pause: time.Second,
		Log:   log,

		Contested: n.contested.Store,
	}
	log.Info("podwall-install keeps podwall in place", "networks", n.dir.Path, "plugins", n.cniBin)
	if n.dir.DropIn { // an earlier run may have been killed before it did
		_ = change.Wake(n.dir.Path) // where there is no such directory, nobody watches it
	}
	after, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends when all is done
	defer stop()
	// These are all the goroutines that last.
	var hearing, g errgroup.Group
	if n.cluster.daemonSet != "" {
		hearing.Go(func() error { return n.listen(after, log) })
	}
	g.Go(func() error { return h.Run(ctx) })
	if n.cluster.taint != "" {
		guard := gate{look: n.protects, taint: n.setTaint, log: log}
		g.Go(func() error { return guard.run(ctx) })
	}
	err := g.Wait()
	if n.cluster.daemonSet != "" {
		err = errors.Join(err, n.leave(after, log))
	} else {
		log.Info("podwall-install stops; everything stays in place")
	}
	stop()
	return errors.Join(err, hearing.Wait())
}

// look plans. Networks that lost their entry are mended also while the binaries
// to copy can't be read, as long as there is a plugin.
func (n *node) look(r *reporter) ([]change.Change, error) {
	p, err := n.plan()
	if err != nil {
		files, lookErr := n.dir.Look()
		if lookErr != nil || !executable(n.binaries()[0].Path) {
			return nil, errors.Join(err, lookErr)
		}
		p = plan{files: files}
	}
	r.files(p)
	return p.changes(), err
}

// A reporter logs what is wrong with the files, once however long it lasts.
type reporter struct {
	log     *slog.Logger
	dir     string
	waiting bool
	told    map[string]string // problem by path
}

func (r *reporter) files(p plan) {
	if p.waiting() && !r.waiting {
		r.log.Info("wait for a network that a runtime could give a pod", "directory", r.dir)
	}
	r.waiting = p.waiting()
	now := map[string]string{}
	for _, f := range p.files {
		if f.Problem == "" {
			continue
		}
		now[f.Path] = f.Problem
		if r.told[f.Path] == f.Problem {
			continue
		}
		level := slog.LevelWarn
		if f.Stuck() {
			level = slog.LevelError
		}
		r.log.Log(context.Background(), level, problem(f))
	}
	for path := range r.told {
		if _, still := now[path]; !still {
			r.log.Info("no longer wrong", "file", path)
		}
	}
	r.told = now
}
