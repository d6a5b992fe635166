package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A diary is an Observer that remembers.
type diary struct {
	mu       sync.Mutex
	attempts []Attempt
	behind   []time.Duration
	heard    int
}

func (d *diary) Attempted(a Attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attempts = append(d.attempts, a)
}

func (d *diary) Reached(behind time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behind = append(d.behind, behind)
}

func (d *diary) Heard(tamper.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard++
}

// last is the latest attempt, without its duration.
func (d *diary) last() Attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.attempts) == 0 {
		return Attempt{}
	}
	a := d.attempts[len(d.attempts)-1]
	a.Took = 0
	return a
}

func TestObserverIsToldOfAttempts(t *testing.T) {
	b, told := newBench(t), &diary{}
	b.Observer = told
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	if got := told.last(); got != (Attempt{}) || len(told.attempts) == 0 {
		t.Errorf("after ADD, whose plugin wrote: %+v, want an attempt that found all done", got)
	}
	b.kernel.before = func(uint64, ruleset.RuleSet) error { return errInjected }
	b.SetProtection(Protection{Tamper: daemonconf.TamperOn})
	b.round(t.Context())
	if got := told.last(); !errors.Is(got.Err, errInjected) || got.Again {
		t.Errorf("after a refusal: %+v", got)
	}
	b.kernel.before = nil
	b.sweep(t.Context())
	b.round(t.Context())
	if got := told.last(); got != (Attempt{Wrote: true, Again: true}) {
		t.Errorf("after the next attempt: %+v", got)
	}
	b.kernel.put(inode(ns.FD()), "eth0", ruleset.RuleSet{}, nil) // somebody opened a table
	b.sweep(t.Context())
	b.round(t.Context())
	if got := told.last(); got != (Attempt{Wrote: true, Foreign: true}) {
		t.Errorf("after a repair: %+v", got)
	}
}

// A change waits from the moment it is made to the end of the round that has it,
// whichever others came meanwhile; a round without a change reports none.
func TestObserverIsToldWhenChangesArrive(t *testing.T) {
	b, told := newBench(t), &diary{}
	b.Observer = told
	b.round(t.Context())
	if len(told.behind) != 1 || b.Behind() != 0 {
		t.Fatalf("after the first round: told %v, behind %s", told.behind, b.Behind())
	}
	b.round(t.Context())
	if len(told.behind) != 1 {
		t.Errorf("a round without a change: told %v", told.behind)
	}
	b.SetNodeEgress(true)
	time.Sleep(20 * time.Millisecond)
	b.SetNodeEgress(false) // a younger change does not make the older one younger
	if d := b.Behind(); d < 20*time.Millisecond {
		t.Errorf("behind %s while a change waits", d)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	b.round(stopped)
	if len(told.behind) != 1 || b.Behind() == 0 {
		t.Errorf("a round that was broken off: told %v, behind %s", told.behind, b.Behind())
	}
	b.round(t.Context())
	if len(told.behind) != 2 || told.behind[1] < 20*time.Millisecond || b.Behind() != 0 {
		t.Errorf("after its round: told %v, behind %s", told.behind, b.Behind())
	}
}

func TestPhasesOfFinish(t *testing.T) {
	b := newBench(t)
	defer b.rounds(t)()
	ns := netnstest.New(t)
	ad, err := b.Begin(pod(ns, "web", "10.0.0.2"), fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	ad.Ended = func(phase string) { phases = append(phases, phase) }
	if err := ad.Finish(t.Context(), b.installed(ns, ad)); err != nil {
		t.Fatal(err)
	}
	if want := []string{PhaseOthers, PhaseUpdate, PhasePersist}; !slices.Equal(phases, want) {
		t.Errorf("phases %q, want %q", phases, want)
	}
}

func TestDropped(t *testing.T) {
	b := newBench(t)
	web, gone := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	b.add(t, gone, pod(gone, "gone", "10.0.0.3"))
	b.Kernel.Counters = func(netns int) (map[string]nft.Count, error) {
		if inode(netns) == inode(gone.FD()) {
			return nil, errInjected
		}
		return map[string]nft.Count{
			ruleset.DropCounter("eth0", ruleset.Ingress): {Packets: 3, Bytes: 180},
			ruleset.ForgedCounter("eth0"):                {Packets: 1, Bytes: 60},
			ruleset.GuardCounter("eth0"):                 {Packets: 2, Bytes: 120},
			ruleset.DropCounter("eth1", ruleset.Ingress): {Packets: 9},
			ruleset.AuditCounter("eth0", ruleset.Egress): {Packets: 5},
		}, nil
	}
	open := ruleset.Chain{Tiers: []ruleset.Tier{{Name: ruleset.TierPolicy, Default: ruleset.Accept}}, Default: ruleset.Accept}
	all := b.Dropped(t.Context())
	if len(all) != 2 {
		t.Fatalf("Dropped = %+v, want both attachments", all)
	}
	if all[0].Name != "web" {
		slices.Reverse(all)
	}
	if all[1].Drops != nil {
		t.Errorf("what can't be read: %+v", all[1])
	}
	want := map[Drop]bool{
		{"ingress", ReasonPolicy, nft.Count{Packets: 3, Bytes: 180}}: true,
		{"egress", ReasonForged, nft.Count{Packets: 3, Bytes: 180}}:  true,
		{"egress", ReasonAudit, nft.Count{Packets: 5}}:               true,
	}
	for _, d := range all[0].Drops {
		if d.Packets != 0 && !want[d] {
			t.Errorf("unexpected: %+v", d)
		}
		delete(want, d)
	}
	if len(want) > 0 {
		t.Errorf("missing: %+v", want)
	}
	// Where nothing is dropped, what belongs to no connection is counted and passes.
	for _, d := range dropsOf("eth0", ruleset.RuleSet{Ingress: open, Egress: open}, map[string]nft.Count{ruleset.UntrackedCounter("eth0"): {Packets: 1}}) {
		if d.Packets != 0 {
			t.Errorf("of an open pod: %+v", d)
		}
	}
	late, stop := context.WithCancel(t.Context())
	stop()
	for _, d := range b.Dropped(late) {
		if d.Drops != nil {
			t.Errorf("without time: %+v", d)
		}
	}
}
