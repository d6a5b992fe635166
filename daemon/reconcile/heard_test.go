package reconcile

import (
	"testing"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// hears is a bench with one attached pod, whose namespace has id 7 for who listens.
func hears(t *testing.T) (*bench, *attachment, uint64) {
	b := newBench(t)
	b.Kernel.NamespaceID = func(int) (int32, error) { return 7, nil }
	ns := netnstest.New(t)
	web := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, web)
	b.round(t.Context())
	return b, b.attachments[web.Key], inode(ns.FD())
}

// news is a peer of the pod's that was not there before.
func news(i int) source.Update {
	return source.Update{Change: policy.Change{Set: policy.Snapshot{Pods: []policy.Pod{peer(i)}}}}
}

// The kernel reports a transaction before whoever made it has noted that. The
// Keeper's own are not looked at again; another's behind one of them is.
func TestOnlyOthersTransactionsAreSuspect(t *testing.T) {
	for name, tt := range map[string]struct {
		behind uint32 // how many generations behind the Keeper's own
		want   bool
	}{"its own": {0, false}, "another's": {1, true}} {
		t.Run(name, func(t *testing.T) {
			b, a, ns := hears(t)
			told := false
			b.kernel.after = func(uint64, ruleset.RuleSet) error {
				b.kernel.mu.Lock()
				own := b.kernel.generation[ns]
				b.kernel.mu.Unlock()
				for g := own; g <= own+tt.behind; g++ {
					b.Heard(tamper.Event{Namespace: 7, Generation: g})
				}
				told = true
				return nil
			}
			b.Update(news(0))
			b.round(t.Context())
			if !told || a.look != tt.want {
				t.Errorf("told %v; looked at again: %v, want %v", told, a.look, tt.want)
			}
		})
	}
}

// The device is looked up once, again when some device has changed, and each time
// when nobody would hear of that.
func TestDeviceIsLookedUpWhenItMayBeAnother(t *testing.T) {
	b, _, _ := hears(t)
	asked := 0
	b.Kernel.Index = func(int, string) (int, error) { asked++; return 5, nil }
	for i, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"the first time", func() {}, 1},
		{"nothing has changed", func() {}, 0},
		{"a device has changed", func() { b.Heard(tamper.Event{Namespace: 7}) }, 1},
		{"another namespace's has", func() { b.Heard(tamper.Event{Namespace: 8}) }, 0},
		{"something was lost", func() { b.Heard(tamper.Event{Lost: true}) }, 1},
		{"nobody hears", b.Deafen, 1},
		{"nobody hears still", func() {}, 1},
	} {
		asked = 0
		step.do()
		b.Update(news(i)) // so that there is something to write
		b.round(t.Context())
		if asked != step.want {
			t.Errorf("%s: asked %d times, want %d", step.what, asked, step.want)
		}
	}
}
