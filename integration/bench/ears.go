package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/integration/lab"
)

// Ears hear whenever the rules of some pods change: by one socket for all, to which
// the kernel reports the end of every transaction. One in each namespace would get
// every message of these, at the expense of whoever makes them.
type ears struct {
	pods  map[int32]bool // by the id of the namespace
	close func()

	mu    sync.Mutex
	heard map[int32]bool // since transactions was called
	count int
	last  time.Time     // when something was heard
	all   chan struct{} // closed when all were
	err   error
}

// listenTo begins to hear. The caller closes the ears.
func listenTo(pods []*lab.Sandbox) (*ears, error) {
	e := &ears{pods: map[int32]bool{}}
	for _, sb := range pods {
		f, err := os.Open(sb.NS.Path())
		if err != nil {
			return nil, err
		}
		id, err := tamper.NamespaceID(int(f.Fd()))
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("listen to %s: %w", sb.Pod(), err)
		}
		e.pods[id] = true
	}
	e.forget()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := tamper.Watch(ctx, 0, e.hear); err != nil {
			e.fail(err)
		}
	}()
	e.close = func() { cancel(); <-done }
	return e, nil
}

// hear takes note of a transaction.
func (e *ears) hear(event tamper.Event) {
	now := time.Now()
	if event.Lost {
		e.fail(errors.New("more happened than the socket holds"))
		return
	}
	if event.Generation == 0 || !e.pods[event.Namespace] {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.count = now, e.count+1
	if !e.heard[event.Namespace] {
		if e.heard[event.Namespace] = true; len(e.heard) == len(e.pods) {
			close(e.all)
		}
	}
}

func (e *ears) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = fmt.Errorf("listen to the kernel: %w", err)
}

// forget begins anew. e.mu is held, or nobody hears yet.
func (e *ears) forget() { e.heard, e.count, e.all = map[int32]bool{}, 0, make(chan struct{}) }

// wait waits until the rules of each pod have changed since transactions was called,
// and returns when the last change was.
func (e *ears) wait(ctx context.Context) (time.Time, error) {
	e.mu.Lock()
	all := e.all
	e.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
	case <-all:
	}
	if ctx.Err() != nil {
		return time.Time{}, context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := len(e.pods) - len(e.heard); left > 0 && e.err == nil {
		return e.last, fmt.Errorf("wait for %d pods' rules to change: %d have not", len(e.pods), left)
	}
	return e.last, e.err
}

// transactions returns how many there were since it was called last, as far as the
// kernel has had a moment to report them.
func (e *ears) transactions() int {
	time.Sleep(5 * time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.count
	e.forget()
	return n
}
