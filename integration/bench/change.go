package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podwall/podwall/integration/lab"
)

const changeText = `A node with 110 pods under one policy that admits 1,000 pods of a cluster of 10,000. An API server tells podwalld of a change; the clock
runs from then until the kernel reports the transaction in the last of the 110 namespaces.`

// changes measures how long it takes until the kernel knows of a change.
func (b *bench) changes(ctx context.Context) error {
	n, err := newClusterNode("change", sized(10_000))
	if err != nil {
		return err
	}
	defer n.end()
	if _, err := n.start(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := n.fill(ctx); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.log, "%d pods added in %.1f s\n", localPods, time.Since(start).Seconds())
	e, err := listenTo(n.pods)
	if err != nil {
		return err
	}
	defer e.close()
	times := 100
	if b.short {
		times = 30
	}
	for _, c := range n.kinds() {
		used := cpuOf(n.Pid())
		took, err := c.repeat(ctx, e, times)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		used = cpuOf(n.Pid()) - used
		b.add(line{what: c.name + ", p50", beside: "the last of 110 pods", unit: "ms", got: summarize(took)})
		b.add(line{what: c.name + ", p99", beside: "the last of 110 pods", unit: "ms", got: tail(took), target: c.target})
		if c.target.most && c.target.value == 10 {
			b.add(line{what: c.name + ": p99 of a loop with its p50", beside: "two idle processors", unit: "ms", got: tail(hiccups(summarize(took).median, len(took)))})
		}
		b.add(line{what: c.name + ", CPU time of podwalld", beside: "110 pods", unit: "ms", got: exactly(ms(used) / float64(len(took)))})
	}
	b.axis = "Restart"
	return b.restarts(ctx, n, e)
}

// A change is one kind of news, and back.
type change struct {
	name        string
	target      *target
	there, back func(turn int)
}

// kinds are the changes that are measured.
func (n *clusterNode) kinds() []change {
	next := n.cluster.pods // a pod that there is not yet
	tell := func(what watch.EventType, o func(turn int) metav1.Object) func(int) {
		return func(turn int) { n.hub.Tell(what, o(turn)) }
	}
	pod := func(role string) func(int) metav1.Object {
		return func(turn int) metav1.Object { return n.cluster.remotePod(next+turn, role) }
	}
	last := func(role string) func(int) metav1.Object {
		return func(int) metav1.Object { return n.cluster.remotePod(next-1, role) }
	}
	policy := func(ports ...int) func(int) metav1.Object {
		return func(int) metav1.Object { return shopPolicy(ports...) }
	}
	return []change{
		{"a remote pod comes or goes", atMost(10).but(25, tailCosts), tell(watch.Added, pod("peer")), tell(watch.Deleted, pod("peer"))},
		{"a remote pod's label changes", atMost(10).but(25, tailCosts), tell(watch.Modified, last("peer")), tell(watch.Modified, last("member"))},
		{"a policy is edited", atMost(100), tell(watch.Modified, policy(80, 81)), tell(watch.Modified, policy(80))},
	}
}

// enough is how long one kind of change is measured at most.
const enough = 20 * time.Second

// repeat makes the change and takes it back, and returns how long each took, in
// milliseconds.
func (c change) repeat(ctx context.Context, e *ears, times int) (took []float64, err error) {
	began := time.Now()
	for i := 0; i < times && time.Since(began) < enough; i++ {
		for _, do := range []func(int){c.there, c.back} {
			time.Sleep(10 * time.Millisecond) // let what came before it end
			e.transactions()
			start := time.Now()
			do(i)
			last, err := e.wait(ctx)
			if err != nil {
				return nil, err
			}
			took = append(took, ms(last.Sub(start)))
		}
	}
	return took, nil
}

// tailCosts says why a change's tail is longer than its target.
const tailCosts = `the machine itself has this tail: beside it stands a loop that needs nothing but the two processors, takes as long in the
middle, and is measured as often in the same run.`

// hiccups is how long a loop takes each time, in milliseconds, that computes on both
// processors and takes so many in the middle: what the machine does to any program.
func hiccups(median float64, times int) []float64 {
	turns := 1000
	runs := func(n int) (took []float64) {
		for range n {
			time.Sleep(10 * time.Millisecond)
			start := time.Now()
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() { spin(turns) })
			}
			both.Wait()
			took = append(took, ms(time.Since(start)))
		}
		return took
	}
	for range 5 { // the first have no idea
		turns = int(float64(turns)*median/summarize(runs(9)).median) + 1
	}
	return runs(times)
}

// spin computes for a while.
//
//go:noinline
func spin(turns int) (x uint64) {
	for range turns {
		x = x*6364136223846793005 + 1
	}
	return x
}

// restarts measures what it is like when podwalld is started again and nothing
// has changed.
func (b *bench) restarts(ctx context.Context, n *clusterNode, e *ears) error {
	times := 5
	if b.short {
		times = 3
	}
	var ready []float64
	written, lost, sent := 0, 0, 0
	for range times {
		e.transactions()
		stop, err := trickle(ctx, n.pods[0], n.pods[1])
		if err != nil {
			return err
		}
		if err := n.Stop(); err != nil {
			return err
		}
		start := time.Now()
		if _, err := n.start(ctx); err != nil {
			return err
		}
		ready = append(ready, ms(time.Since(start)))
		time.Sleep(500 * time.Millisecond) // what it may do once it is ready
		s, l := stop()
		sent, lost, written = sent+s, lost+l, written+e.transactions()
	}
	b.add(line{what: "started again, nothing changed: ready", beside: "110 pods", unit: "ms", got: summarize(ready), target: atMost(1000)})
	b.add(line{what: "started again: transactions written to the kernel", beside: "110 pods", unit: "transactions", got: exactly(float64(written)), target: atMost(0)})
	b.add(line{what: fmt.Sprintf("started again: packets lost of %d", sent), beside: "pod to pod", unit: "packets", got: exactly(float64(lost)), target: atMost(0)})
	return nil
}

// trickle sends a packet each millisecond from a pod to another, until stop says
// how many were sent and how many of them did not arrive.
func trickle(ctx context.Context, from, to *lab.Sandbox) (stop func() (sent, lost int), err error) {
	in, err := to.ListenPacket("udp", netip.AddrPortFrom(to.Addr(false), 80).String())
	if err != nil {
		return nil, err
	}
	out, err := lab.Flow{From: from.Netns, Proto: "udp", To: netip.AddrPortFrom(to.Addr(false), 80)}.Dial(ctx)
	if err != nil {
		_ = in.Close()
		return nil, err
	}
	var sent, got int
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			if _, err := out.Write([]byte("podwall")); err == nil {
				sent++
			}
		}
		time.Sleep(time.Second) // what is on its way arrives, and is read
		_ = in.Close()          // ends the receiver
	})
	both.Go(func() {
		buf := make([]byte, 64)
		for {
			if _, _, err := in.ReadFrom(buf); err != nil {
				return
			}
			got++
		}
	})
	return func() (int, int) {
		cancel()
		both.Wait()
		_ = out.Close()
		return sent, sent - got
	}, nil
}
