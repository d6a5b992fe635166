package server

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// guests puts n connections into r.
func guests(t *testing.T, r *room, n int) []*guest {
	t.Helper()
	var gs []*guest
	for range n {
		g, ok := r.enter(t.Context(), &net.UnixConn{})
		if !ok {
			t.Fatal("no place")
		}
		gs = append(gs, g)
	}
	return gs
}

func TestTheLongestSilentMakesRoom(t *testing.T) {
	r := newRoom(3)
	gs := guests(t, r, 3)
	if !r.heard(gs[0]) {
		t.Error("the first guest was evicted before the room was full")
	}
	entered := make(chan struct{})
	go func() {
		defer close(entered)
		guests(t, r, 1)
	}()
	for evicted := false; !evicted; { // its connection ends, and then:
		r.mu.Lock()
		evicted = gs[1].at == nil
		r.mu.Unlock()
	}
	if r.heard(gs[1]) {
		t.Error("the second guest does not know that it was evicted")
	}
	r.leave(gs[1])
	<-entered
	if !r.heard(gs[2]) {
		t.Error("the third guest had to go too")
	}
}

// Who has spoken is not sent away: the next one waits.
func TestRequestsUnderWayKeepTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(2)
		gs := guests(t, r, 2)
		for _, g := range gs {
			r.heard(g)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, ok := r.enter(ctx, &net.UnixConn{}); ok {
			t.Error("a third one got a place of two")
		}
		time.AfterFunc(time.Minute, func() { r.leave(gs[0]) })
		if _, ok := r.enter(t.Context(), &net.UnixConn{}); !ok {
			t.Error("no place after one was left")
		}
	})
}
