package server

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

// A diary is an Observer that remembers.
type diary struct {
	mu      sync.Mutex
	phases  []string
	answers []api.Verb // those that were no errors
	total   time.Duration
	add     time.Duration
}

func (d *diary) Phase(phase string, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phases = append(d.phases, phase)
	d.total += took
}

func (d *diary) Answered(verb api.Verb, took time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.answers = append(d.answers, verb)
	}
	if verb == api.VerbAdd {
		d.add = took
	}
}

// The phases are all of an ADD, in order, and add up to it.
func TestObserver(t *testing.T) {
	told := &diary{}
	h := serve(t, paper(), DefaultLimits, func(s *Server) { s.Observer = told })
	ns := netnstest.New(t)
	if err := h.add(t.Context(), ns, attachment(ns, "web", netip.MustParseAddr("10.0.0.2")), paper()); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []api.Verb{api.VerbReady, "sudo"} {
		_ = h.client.Call(t.Context(), verb, nil, nil, nil)
	}
	h.stop()
	want := []string{PhaseDecode, PhaseBegin, PhaseApply, reconcile.PhaseOthers, reconcile.PhaseUpdate, reconcile.PhasePersist}
	if !slices.Equal(told.phases, want) {
		t.Errorf("phases %q, want %q", told.phases, want)
	}
	if want := []api.Verb{api.VerbAdd, api.VerbReady}; !slices.Equal(told.answers, want) {
		t.Errorf("answered %q, want %q", told.answers, want)
	}
	if told.total > told.add || told.total < told.add/2 {
		t.Errorf("the phases took %s of an ADD's %s", told.total, told.add)
	}
}
