package server

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

// An ADD waits until its pod's labels are known, and fails for the runtime to come
// again if they can't be had.
func TestAddLearnsFirst(t *testing.T) {
	var mu sync.Mutex // guards asked and answer
	asked, missing := "", api.Errorf(api.CodeUnavailable, "pod shop/web: its labels are not known")
	var answer error = missing
	h := serve(t, paper(), DefaultLimits, func(s *Server) {
		s.Learn = func(_ context.Context, a api.Attachment) error {
			mu.Lock()
			defer mu.Unlock()
			asked = a.Pod()
			return answer
		}
	})
	ns := netnstest.New(t)
	a := attachment(ns, "web", netip.MustParseAddr("10.0.0.2"))
	if err := h.add(t.Context(), ns, a, paper()); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), missing.Message) {
		t.Errorf("ADD of a pod whose labels are not known: %v, want %v", err, missing)
	}
	mu.Lock()
	if got := h.store.keys(); len(got) > 0 || asked != "shop/web" {
		t.Errorf("asked for %q; the store holds %v, want nothing", asked, got)
	}
	answer = nil
	mu.Unlock()
	if err := h.add(t.Context(), ns, a, paper()); err != nil {
		t.Errorf("ADD once they are known: %v", err)
	}
}
