package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

const soakText = `Pods come and go, 150 a second, remote ones by the API server's word and local ones by ADD and DEL. What podwalld holds is counted twice
when all of them are gone: after a first part of the time, and at the end. Growth is the second count over the first.`

const (
	churned   = 150 // pods that come or go each second
	residents = 20  // local pods that stay
	workers   = 2   // that add and delete local pods
	alive     = 500 // remote pods that come before the first of them goes
)

// soak churns pods and looks for what has grown.
func (b *bench) soak(ctx context.Context) error {
	first, rest := 30*time.Second, b.soaking
	if b.short {
		rest = min(rest, time.Minute)
	}
	n, err := newClusterNode("soak", sized(2000))
	if err != nil {
		return err
	}
	defer n.end()
	if _, err := n.start(ctx); err != nil {
		return err
	}
	for i := range residents {
		ns, name := n.cluster.localName(i)
		sb, err := n.AddPod(ctx, ns, name)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, n.LogTail())
		}
		n.pods = append(n.pods, sb)
	}
	c := &churn{clusterNode: n}
	if err := c.run(ctx, first); err != nil {
		return err
	}
	before, err := c.holdings(ctx)
	if err != nil {
		return err
	}
	c.events.Store(0)
	start := time.Now()
	if err := c.run(ctx, rest); err != nil {
		return err
	}
	rate := float64(c.events.Load()) / time.Since(start).Seconds()
	after, err := c.holdings(ctx)
	if err != nil {
		return err
	}
	b.grown(before, after, rate, rest)
	return nil
}

// A churn is a node whose pods come and go.
type churn struct {
	*clusterNode
	next   int          // the next remote pod
	events atomic.Int64 // pods that came or went
}

// run churns for d, and leaves nothing of it.
func (c *churn) run(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() { errs[w] = c.local(ctx, w) })
	}
	all.Go(func() { c.remote(ctx) })
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("%w\n%s", err, c.LogTail())
		}
	}
	return nil
}

// local adds and deletes pods of its own names until ctx ends.
func (c *churn) local(ctx context.Context, worker int) error {
	work := context.WithoutCancel(ctx) // what has begun is finished
	for i := 0; ctx.Err() == nil; i++ {
		ns, name := c.cluster.localName(residents + worker + workers*(i%20))
		sb, err := c.AddPod(work, ns, name)
		if err != nil {
			return err
		}
		if err := c.DelPod(work, sb); err != nil {
			return err
		}
		c.events.Add(2)
	}
	return nil
}

// remote tells of pods that come and go until ctx ends, at a steady rate, and
// then of the going of those that are left.
func (c *churn) remote(ctx context.Context) {
	var there []int
	goes := func() {
		c.hub.Tell(watch.Deleted, c.cluster.remotePod(there[0], "peer"))
		there = there[1:]
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for start, turn := time.Now(), 0; ctx.Err() == nil; <-tick.C {
		for ; float64(turn) < churned*time.Since(start).Seconds(); turn++ {
			if turn%2 == 1 && len(there) >= alive/2 {
				goes()
			} else {
				i := c.cluster.pods + c.next%20_000 // names and addresses come again
				c.hub.Tell(watch.Added, c.cluster.remotePod(i, "peer"))
				there, c.next = append(there, i), c.next+1
			}
			c.events.Add(1)
		}
	}
	for len(there) > 0 {
		goes()
	}
}

// Holdings are what podwalld has of something, and what the kernel has of its.
type holdings struct {
	memory, heap               float64 // bytes
	files, threads, goroutines float64
	addresses                  float64
}

// quiet is longer than podwalld waits before it gives back what is not in use.
const quiet = 23 * time.Second

// holdings counts them once nothing has happened for a while.
func (c *churn) holdings(ctx context.Context) (h holdings, err error) {
	time.Sleep(quiet)
	pid := c.Pid()
	if h.memory, _, err = memoryOf(pid); err != nil {
		return h, err
	}
	for what, value := range map[string]*float64{
		"go_memstats_heap_alloc_bytes": &h.heap, "go_goroutines": &h.goroutines,
	} {
		if *value, err = c.metric(ctx, what); err != nil {
			return h, err
		}
	}
	for what, value := range map[string]*float64{
		fmt.Sprintf("/proc/%d/fd", pid): &h.files, fmt.Sprintf("/proc/%d/task", pid): &h.threads,
	} {
		entries, err := os.ReadDir(what)
		if err != nil {
			return h, err
		}
		*value = float64(len(entries))
	}
	h.addresses, err = c.elements(ctx)
	return h, err
}

// grown puts what has grown into the table.
func (b *bench) grown(before, after holdings, rate float64, d time.Duration) {
	b.add(line{what: fmt.Sprintf("pods that came or went each second, for %.0f s", d.Seconds()), unit: "pods/s", got: exactly(rate)})
	for _, g := range []struct {
		what          string
		unit          string
		before, after float64
		room          float64 // how much more is no growth: a collection that was not due, a thread that waits
	}{
		{"resident memory", "MiB", before.memory / (1 << 20), after.memory / (1 << 20), 8},
		{"heap", "MiB", before.heap / (1 << 20), after.heap / (1 << 20), 8},
		{"file descriptors", "", before.files, after.files, 4},
		{"threads", "", before.threads, after.threads, 16},
		{"goroutines", "", before.goroutines, after.goroutines, 8},
		{"addresses in the kernel's sets", "", before.addresses, after.addresses, 0},
	} {
		unit := g.unit
		if unit == "" {
			unit = "more"
		}
		b.add(line{what: fmt.Sprintf("%s, from %.0f to %.0f", g.what, g.before, g.after), unit: unit,
			got: exactly(g.after - g.before), target: atMost(g.room)})
	}
}
