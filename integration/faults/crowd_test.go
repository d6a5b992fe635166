package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// Two hundred and fifty pods are added at once: each is, with its rules.
func TestManyAddsAtOnce(t *testing.T) {
	t.Parallel()
	const pods = 250
	n := newNode(t)
	must(t, n.Start(t.Context()))
	var sandboxes [pods]*lab.Sandbox
	for i := range sandboxes {
		sb, err := n.NewSandbox("shop", fmt.Sprintf("pod-%d", i))
		must(t, err)
		t.Cleanup(func() { _ = sb.Delete() })
		must(t, lonely(sb, i))
		sandboxes[i] = sb
	}
	var all sync.WaitGroup
	var errs [pods]error
	var took [pods]time.Duration
	start := time.Now()
	for i, sb := range sandboxes {
		all.Go(func() {
			errs[i] = n.plugin(t.Context(), "ADD", sb)
			took[i] = time.Since(start)
		})
	}
	all.Wait()
	must(t, errors.Join(errs[:]...))
	slices.Sort(took[:])
	t.Logf("%d ADDs at once: all done after %s, half of them after %s", pods, took[pods-1].Round(time.Millisecond), took[pods/2].Round(time.Millisecond))
	eventually(t, func() error {
		if got := n.status(t).Attachments[api.StateEnforced]; got != pods {
			return fmt.Errorf("%d attachments are enforced, want %d", got, pods)
		}
		return nil
	})
	for _, sb := range sandboxes {
		all.Go(func() {
			if err := n.plugin(t.Context(), "DEL", sb); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left := n.status(t).Attachments; len(left) > 0 {
		t.Errorf("after as many DELs there are attachments %v", left)
	}
}

// lonely gives a sandbox an interface eth0 that leads nowhere, and an address.
func lonely(sb *lab.Sandbox, i int) error {
	_, err := sb.RunErr("ip link add eth0 type veth peer name nowhere; ip link set eth0 up")
	sb.Addrs = append(sb.Addrs, lab.PodNet4.Addr().Next())
	for range i + 1 {
		sb.Addrs[0] = sb.Addrs[0].Next()
	}
	return err
}

// A thousand clients that say nothing and a thousand that talk rubbish come again
// and again. Pods are added and deleted as ever.
func TestFloodedSocket(t *testing.T) {
	t.Parallel()
	const clients, adds = 1000, 30
	n := newNode(t).start(t)
	sb := n.bare(t, "shop", "more")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var idle, rubbish atomic.Int64
	for range clients {
		all.Go(func() { n.pester(ctx, nil, &idle) })
		all.Go(func() { n.pester(ctx, noise(), &rubbish) })
	}
	var longest time.Duration
	for range adds {
		start := time.Now()
		if err := n.plugin(t.Context(), "ADD", sb); err != nil {
			t.Error(err)
		}
		longest = max(longest, time.Since(start))
		if err := n.plugin(t.Context(), "DEL", sb); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d ADDs, the longest %s, among %d idle connections and %d with rubbish", adds, longest.Round(time.Millisecond), idle.Load(), rubbish.Load())
	cancel()
	all.Wait()
	if idle.Load() < clients || rubbish.Load() < clients {
		t.Error("too few to prove anything")
	}
	if longest > 5*time.Second {
		t.Error("want less than five seconds")
	}
	n.knows(t)
	expect(t, n.flows()...)
}

// noise is what no client should say: a length and less, or a length and worse.
func noise() []byte {
	b := make([]byte, 5+rand.IntN(2000))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	if b[0]%2 == 0 {
		b[0], b[1] = 0, 0 // a message of a length that is taken
	}
	return b
}

// pester connects, says something or nothing and waits for the end, again and
// again until ctx ends.
func (n *node) pester(ctx context.Context, what []byte, count *atomic.Int64) {
	for ctx.Err() == nil {
		time.Sleep(rand.N(500 * time.Millisecond))
		c, err := net.Dial("unix", n.Socket())
		if err != nil {
			continue // its queue is full
		}
		count.Add(1)
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		_, _ = c.Write(what)
		_, _ = io.Copy(io.Discard, c)
		stop()
		_ = c.Close()
	}
}
