package server

import (
	"container/list"
	"context"
	"net"
	"sync"
)

// A room holds the connections that are open, as many as it has places. Clients
// that say nothing keep nobody out: when it is full, the one that has done so for
// longest is closed. A request follows its connection at once, so whoever has
// something to say has said it long before.
type room struct {
	places chan struct{} // one token for each guest

	mu     sync.Mutex
	silent *list.List // of *guest, in the order they came
}

// A guest is an open connection.
type guest struct {
	conn *net.UnixConn
	at   *list.Element // in silent; nil once it was heard or evicted
}

func newRoom(places int) *room {
	return &room{places: make(chan struct{}, places), silent: list.New()}
}

// enter gives c a place, a silent guest's if need be. It returns false if ctx
// ends first.
func (r *room) enter(ctx context.Context, c *net.UnixConn) (*guest, bool) {
	select {
	case r.places <- struct{}{}:
	default: // full
		r.evict()
		select {
		case r.places <- struct{}{}:
		case <-ctx.Done():
			return nil, false
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := &guest{conn: c}
	g.at = r.silent.PushBack(g)
	return g, true
}

// heard says that g's request has arrived, or never will. It returns false if g
// was evicted before.
func (r *room) heard(g *guest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.at == nil {
		return false
	}
	r.silent.Remove(g.at)
	g.at = nil
	return true
}

// evict closes the connection of the guest that has been silent for longest. Its
// place is free soon after.
func (r *room) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.silent.Front(); e != nil {
		g := e.Value.(*guest)
		r.silent.Remove(e)
		g.at = nil
		_ = g.conn.Close()
	}
}

// leave frees g's place.
func (r *room) leave(g *guest) {
	r.heard(g)
	<-r.places
}
