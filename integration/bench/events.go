package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

const eventsText = `New connections to a pod, while a thousand packets a second arrive there that its policy drops. On one node podwalld shows them, within
its default limits; on the other it shows none. What podwalld uses, and what sending the drops takes, counts as the load's own.`

// dropsPerSecond are sent beside the connections, to a port that nobody allows.
const (
	dropsPerSecond = 1000
	deniedPort     = 9
)

// events compares what a pod's connections cost with and without verdict events.
func (b *bench) events(ctx context.Context) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // as the datapath's
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	on, err := newEventSite(ctx, "events-on")
	if err != nil {
		return err
	}
	defer func() { _ = on.Close() }() // the machine goes anyway
	off, err := newEventSite(ctx, "events-off", "--events", "")
	if err != nil {
		return err
	}
	defer func() { _ = off.Close() }()
	sites := map[string]*site{on.Name: on, off.Name: off}
	var drops, seconds float64
	l := load{"new TCP connections beside 1,000 drops a second", "connections/s", func(s route, d time.Duration) (count, error) {
		c, sent, err := besideDrops(s, sites[s.name].Pid(), d)
		drops, seconds = drops+sent, seconds+d.Seconds()
		return c, err
	}}
	p := pairing{load: l, a: on.subjects[on.Name], b: off.subjects[off.Name], precision: 0.004, pairs: 120}
	got, rate, err := p.ratio(ctx)
	if err != nil {
		return err
	}
	b.add(line{what: l.name + ": events at the default limits", beside: "no events", got: got, target: atLeast(0.98),
		rate: fmt.Sprintf("%.3g %s, %.0f drops/s", rate.median, l.unit, drops/seconds)})
	return nil
}

// newEventSite makes a node with one pod, which admits the client.
func newEventSite(ctx context.Context, name string, flags ...string) (*site, error) {
	n, err := lab.NewNode(name)
	if err != nil {
		return nil, err
	}
	s := &site{Node: n, subjects: map[string]subject{}}
	files := peerManifests(10)
	files["policy.yaml"] = oneRule(tenPeers).manifest("db", 1)
	err = func() error {
		for file, text := range files {
			if err := n.WriteManifest(file, text); err != nil {
				return err
			}
		}
		if err := s.Node.Start(ctx, append(flags, "--cni-cache-dir", filepath.Join(s.Dir, "none"))...); err != nil {
			return err
		}
		if s.client, err = s.attach(ctx, s.Network().WithChain(), fmt.Sprintf("peer-%d", clientIndex), clientAddr); err != nil {
			return err
		}
		return s.under(ctx, name, "db", 1, s.Network())
	}()
	if err != nil {
		_ = n.Close() // the machine goes anyway
		return nil, err
	}
	return s, nil
}

// besideDrops is connectionLoad with drops beside it, and says how many. All that
// both take of CPUs counts, and so does what the process pid takes.
func besideDrops(s route, pid int, d time.Duration) (c count, dropped float64, err error) {
	before, err := processTime(pid)
	if err != nil {
		return c, 0, err
	}
	stop, sent := make(chan struct{}), make(chan count, 1)
	failed := make(chan error, 1)
	go func() {
		var c count
		failed <- s.client.Do(func() (err error) {
			c, err = sendDrops(netip.AddrPortFrom(s.pod.Addr(false), deniedPort), stop)
			return err
		})
		sent <- c
	}()
	c, err = connectionLoad(s, d)
	close(stop)
	err = errors.Join(err, <-failed)
	drops := <-sent
	after, timeErr := processTime(pid)
	c.cpu += drops.cpu + after - before
	return c, drops.ops, errors.Join(err, timeErr)
}

// sendDrops sends packets to an address at dropsPerSecond, until stop is closed.
func sendDrops(to netip.AddrPort, stop <-chan struct{}) (c count, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return c, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	start := cpuTime()
	tick := time.NewTicker(time.Second / dropsPerSecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			c.cpu = cpuTime() - start
			return c, nil
		case <-tick.C:
			if err := unix.Sendto(fd, make([]byte, 32), 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
				return c, fmt.Errorf("send to %s: %w", to, err)
			}
			c.ops++
		}
	}
}

// processTime is what all threads of a process have used of CPUs.
func processTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("read what process %d has used: no threads: %w", pid, errors.Join(err, os.ErrNotExist))
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		var ns int64
		if err == nil {
			_, err = fmt.Sscan(string(b), &ns)
		}
		if err != nil {
			return 0, fmt.Errorf("read what process %d has used: %w", pid, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
