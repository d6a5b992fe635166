package tamper_test

import (
	"context"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/netnstest"
)

// hear watches until the test ends and returns what is heard.
func hear(t *testing.T) <-chan tamper.Event {
	t.Helper()
	events := make(chan tamper.Event, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tamper.Watch(ctx, time.Millisecond, func(e tamper.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return events
}

// until returns the first event for which ok holds.
func until(t *testing.T, events <-chan tamper.Event, what string, ok func(tamper.Event) bool) tamper.Event {
	t.Helper()
	end := time.After(5 * time.Second)
	for {
		select {
		case e := <-events:
			if ok(e) {
				return e
			}
		case <-end:
			t.Fatalf("%s: not heard", what)
		}
	}
}

// A namespace without a device in common with the daemon's is given an id, and
// heard from then on: who changed nftables there, and when a device changed.
func TestChangesInANamespaceAreHeard(t *testing.T) {
	events := hear(t)
	ns, other := netnstest.New(t), netnstest.New(t)
	id, err := tamper.NamespaceID(ns.FD())
	if err != nil || id < 0 {
		t.Fatalf("NamespaceID: %d, %v", id, err)
	}
	if again, err := tamper.NamespaceID(ns.FD()); err != nil || again != id {
		t.Errorf("NamespaceID, again: %d, want %d, %v", again, id, err)
	}
	if o, err := tamper.NamespaceID(other.FD()); err != nil || o == id {
		t.Errorf("NamespaceID of another: %d, %v", o, err)
	}
	time.Sleep(50 * time.Millisecond) // Watch may not have joined the groups yet
	ns.Run(t, "nft add table inet stranger")
	e := until(t, events, "nft add table", func(e tamper.Event) bool { return e.Namespace == id && e.Generation != 0 })
	if e.Command != "nft" || e.PID == 0 {
		t.Errorf("changed by %s, want nft", e.Who())
	}
	ns.Run(t, "ip link set lo down")
	until(t, events, "ip link set", func(e tamper.Event) bool { return e.Namespace == id && e.Generation == 0 && !e.Lost })
}
