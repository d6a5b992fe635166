package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/adopt"
	"github.com/podwall/podwall/daemon/events"
	"github.com/podwall/podwall/daemon/metrics"
	"github.com/podwall/podwall/daemon/private"
	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/server"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/kube"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/queue"
	"github.com/podwall/podwall/internal/version"
)

// How often the daemon looks for what nobody tells it.
const (
	sweepEvery = 5 * time.Second
	adoptEvery = 30 * time.Second
)

// A daemon is the wiring of one podwalld.
type daemon struct {
	cfg   daemonconf.Config
	read  func() (daemonconf.Config, error) // the configuration, again
	level *slog.LevelVar
	log   *slog.Logger
	probe func() (probe.Lacks, error) // what the kernel can't do

	started time.Time
	node    string
	store   *store.Store
	keeper  *reconcile.Keeper
	source  source.Source
	cluster *kube.Source // the source, if it is one
	adopter adopt.Finder
	metrics *metrics.Metrics
	events  *events.Hub
	said    string        // about what can't be adopted, to say it once
	lacking []api.Problem // of the kernel
}

// run works until ctx ends.
func (d *daemon) run(ctx context.Context) error {
	d.started = time.Now().UTC()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP) // from the start: it would end the process
	defer signal.Stop(hup)
	if err := d.open(); err != nil {
		return err
	}
	defer d.store.Close()
	if err := d.takeOver(); err != nil {
		return err
	}
	defer d.events.Close()
	listener, err := server.Listen(d.cfg.Socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	addresses, err := dialAddresses()
	if err != nil {
		return err
	}
	defer addresses.Close()
	scrapes, err := listenMetrics(d.cfg.MetricsAddress)
	if err != nil {
		return err
	}
	d.log.Info("podwalld starts", "version", version.Version, "node", d.node, "socket", d.cfg.Socket)
	// These are all the goroutines that last.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.source.Run(ctx, d.keeper.Update) })
	g.Go(func() error { return d.keeper.Run(ctx) })
	g.Go(func() error { return d.listen(ctx) })
	g.Go(func() error { return d.keeper.Watch(ctx, sweepEvery) })
	g.Go(func() error { return d.watchAddresses(ctx, addresses) })
	g.Go(func() error { return d.serve(ctx, listener) })
	g.Go(func() error { return d.serveMetrics(ctx, scrapes) })
	g.Go(func() error { return d.events.Run(ctx) })
	g.Go(func() error { return d.chores(ctx, hup) })
	g.Go(func() error { return d.announce(ctx) })
	g.Go(func() error { return d.tell(ctx) })
	g.Go(func() error { return d.trim(ctx) })
	err = g.Wait()
	d.log.Info("podwalld stops; every rule stays in place")
	return err
}

// open opens what the daemon needs. On error nothing is left open.
func (d *daemon) open() error {
	var err error
	if d.source, err = d.chooseSource(); err != nil {
		return err
	}
	if d.node, err = nodeName(d.cfg.NodeName); err != nil {
		return err
	}
	if err := private.MakeDir(filepath.Dir(d.cfg.Socket)); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if d.store, err = store.Open(filepath.Join(d.cfg.StateDir, "state.db")); err != nil {
		return fmt.Errorf("stateDir: %w", err)
	}
	if note := d.store.Note(); note != "" {
		d.log.Warn("state.db", "note", note)
	}
	d.equip()
	return nil
}

// takeOver makes the Keeper and gives it what an earlier run left.
func (d *daemon) takeOver() error {
	d.keeper = reconcile.New()
	d.keeper.Store, d.keeper.Kernel, d.keeper.Log = d.store, d.kernel(), d.log
	d.keeper.Node, d.keeper.NodeAddresses = d.node, nodeAddresses
	d.metrics = d.newMetrics()
	d.keeper.Observer = d.metrics
	d.keeper.SetNodeEgress(d.cfg.NodeEgress == daemonconf.NodeEgressByPolicy)
	d.keeper.SetProtection(protection(d.cfg))
	if err := d.openEvents(); err != nil {
		return err
	}
	d.adopter = adopt.Finder{Dir: d.cfg.CNICacheDir, Known: d.keeper.Knows, Tracked: tracked}
	if err := d.keeper.Refresh(); err != nil {
		return err
	}
	if err := d.restore(); err != nil {
		return err
	}
	d.drain()
	d.adopt()
	return nil
}

// protection is what cfg says about it.
func protection(cfg daemonconf.Config) reconcile.Protection {
	return reconcile.Protection{
		Tamper:        cfg.TamperProtection,
		Annotations:   cfg.PodAnnotations,
		Sandboxed:     cfg.SandboxedRuntimes,
		SandboxedPods: cfg.SandboxedPods,
	}
}

// restore takes over the attachments in the store. After a reboot none of them
// exists any more, though another namespace may have the number of one.
func (d *daemon) restore() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSpace(string(boot))
	old, err := d.store.BootID()
	if err != nil {
		return err
	}
	records, broken, err := d.store.All()
	if err != nil {
		return err
	}
	for _, b := range broken {
		d.log.Error("an attachment's record can't be read and is set aside", "error", b)
	}
	if old != "" && old != id {
		d.log.Info("the machine was started again: forget the attachments from before", "attachments", len(records))
		for _, r := range records {
			if err := d.store.Delete(r.Key); err != nil {
				return err
			}
		}
		records = nil
	}
	d.keeper.Restore(records)
	return d.store.SetBoot(id)
}

// drain honours the deletions that the plugin could not report.
func (d *daemon) drain() {
	if err := queue.Drain(queue.Dir(d.cfg.Socket), d.keeper.Delete); err != nil {
		d.log.Error("queued deletions", "error", err)
	}
}

// tracked reports whether podwall's table stands in a namespace.
func tracked(netns int) bool {
	counts, err := nft.Counters(netns)
	return err == nil && len(counts) > 0
}

// adopt takes over the pods that run without having met podwalld.
func (d *daemon) adopt() {
	found, err := d.adopter.Find(time.Now().UTC())
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != d.said && said != "" {
		d.log.Warn("pods that can't be adopted", "error", err)
	}
	d.said = said
	for _, r := range found {
		if d.keeper.Adopt(r) {
			d.log.Info("pod adopted", "pod", r.Pod(), "attachment", r.Key.String())
		}
	}
}

// chores does what has to be done now and then until ctx ends.
func (d *daemon) chores(ctx context.Context, hup <-chan os.Signal) error {
	tick := time.NewTicker(adoptEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup: // read the configuration again
			d.reload()
		case <-tick.C: // a DEL or an ADD may have missed the daemon
			d.drain()
			d.adopt()
		}
	}
}

// reload applies what can change while the daemon runs, and says what can't.
func (d *daemon) reload() {
	cfg, err := d.read()
	if err != nil {
		d.log.Error("configuration not read again; the old one holds", "error", err)
		return
	}
	d.level.Set(cfg.LogLevel)
	d.keeper.SetNodeEgress(cfg.NodeEgress == daemonconf.NodeEgressByPolicy)
	d.keeper.SetProtection(protection(cfg))
	d.keeper.SetLogging(logging(cfg))
	was := d.cfg
	was.LogLevel, was.NodeEgress, was.TamperProtection = cfg.LogLevel, cfg.NodeEgress, cfg.TamperProtection
	was.PodAnnotations, was.SandboxedRuntimes, was.SandboxedPods = cfg.PodAnnotations, cfg.SandboxedRuntimes, cfg.SandboxedPods
	was.Events, was.EventRate, was.EventBurst = cfg.Events, cfg.EventRate, cfg.EventBurst
	if !reflect.DeepEqual(was, cfg) {
		d.log.Warn("configuration read again: only logLevel, nodeEgress, tamperProtection, podAnnotations, events, eventRate, eventBurst, sandboxedRuntimes and sandboxedPods change without a restart")
		return
	}
	d.log.Info("configuration read again")
}

func (d *daemon) serve(ctx context.Context, l *net.UnixListener) error {
	s := server.Server{
		Handler:  server.Handler{Keeper: d.keeper, Ready: d.keeper.Synced, Status: d.status, Events: d.events},
		Limits:   server.DefaultLimits,
		Learn:    d.learn(),
		Log:      d.log,
		Observer: d.metrics,
	}
	return s.Serve(ctx, l)
}

// gather is how long changes in namespaces may gather before they are looked at.
const gather = 2 * time.Millisecond

// listen tells the Keeper what happens in the pods' namespaces. Without it (it
// takes CAP_NET_BROADCAST) the sweep finds that, some seconds later.
func (d *daemon) listen(ctx context.Context) error {
	if err := tamper.Watch(ctx, gather, d.heard); err != nil {
		d.keeper.Deafen()
		d.log.Warn("changes by others are noticed by the sweep only", "error", err)
	}
	return nil
}

// announce tells systemd when the daemon is ready, and when it stops.
func (d *daemon) announce(ctx context.Context) error {
	if err := d.keeper.WaitReady(ctx); err != nil {
		return nil // stopped before it was ready
	}
	d.log.Info("ready", "after", time.Since(d.started).Round(time.Millisecond), "attachments", d.keeper.Counts())
	notify(d.log, "READY=1")
	<-ctx.Done()
	notify(d.log, "STOPPING=1")
	return nil
}

// status is what `policyctl status` shows.
func (d *daemon) status() api.Status {
	objects, synced, problems := d.keeper.Source()
	kind, location := d.source.Describe()
	s := api.Status{
		Ready: true, Version: version.Version, Node: d.node, StartedAt: d.started,
		Source:      api.SourceStatus{Kind: kind, Location: location, Synced: !synced.IsZero(), SyncedAt: synced, Objects: objects},
		Attachments: d.keeper.Counts(),
		Audited:     d.keeper.Audited(),
		Store:       d.store.Status(),
		Problems:    slices.Concat(d.lacking, problems, d.events.Problems()),
	}
	d.freshness(&s.Source)
	if err := d.keeper.Synced(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	return s
}
