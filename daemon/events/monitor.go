package events

import (
	"context"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
)

const (
	// maxMonitors bounds how many may follow at the same time.
	maxMonitors = 32
	// queueSize is how many events wait for a client at most.
	queueSize = 2048
	// pulse is how often a client that follows is told that there is nothing: that
	// is how the daemon learns that it has gone.
	pulse = 5 * time.Second
)

// A subscriber is a client of Monitor. The Hub's mutex guards all but kick.
type subscriber struct {
	filter api.Filter
	picks  func(*api.Event) bool
	queue  api.Events
	lost   uint64        // of the Hub's, when it was last told
	kick   chan struct{} // holds one token while there is something in queue
}

// offer gives e to s, or counts it as skipped. The Hub's mutex is held.
func (s *subscriber) offer(e api.Event) {
	if !s.picks(&e) {
		return
	}
	if len(s.queue.Events) >= queueSize {
		s.queue.Skipped++
	} else {
		s.queue.Events = append(s.queue.Events, e)
	}
	s.wake()
}

// conceal tells s what was hidden. The Hub's mutex is held.
func (s *subscriber) conceal(d api.Hidden) {
	if s.filter.Hides(&d) && len(s.queue.Hidden) < queueSize {
		s.queue.Hidden = append(s.queue.Hidden, d)
		s.wake()
	}
}

func (s *subscriber) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // it knows
	}
}

// Monitor calls send with what req asks for: first what is remembered, then, if
// it is to follow, what happens, until ctx ends or send returns an error, which
// it returns. A client that is too slow is told how much it has missed.
func (h *Hub) Monitor(ctx context.Context, req api.MonitorRequest, send func(api.Events) error) error {
	picks, err := req.Filter.Compile()
	if err != nil {
		return api.Errorf(api.CodeInvalid, "monitor: %v", err)
	}
	s := &subscriber{filter: req.Filter, picks: picks, kick: make(chan struct{}, 1)}
	if err := h.subscribe(s, req); err != nil {
		return err
	}
	defer h.unsubscribe(s)
	for {
		if err := send(h.take(s)); err != nil || !req.Follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick: // there is news
		case <-time.After(pulse): // there is none
		}
	}
}

// subscribe gives s what is remembered and, if it follows, all that comes.
func (h *Hub) subscribe(s *subscriber, req api.MonitorRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if req.Follow && len(h.monitors) >= maxMonitors {
		return api.Errorf(api.CodeUnavailable, "monitor: %d follow already: end one of them", len(h.monitors))
	}
	if !req.Since.IsZero() {
		for i := range h.recent {
			s.queue.Events = append(s.queue.Events, h.recent[i].since(req.Since)...)
		}
		s.queue.Events = slices.DeleteFunc(s.queue.Events, func(e api.Event) bool { return !s.picks(&e) })
		slices.SortStableFunc(s.queue.Events, func(a, b api.Event) int { return a.Time.Compare(b.Time) })
	}
	s.lost = h.stats.Lost
	if req.Follow {
		h.monitors = append(h.monitors, s)
	}
	return nil
}

func (h *Hub) unsubscribe(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.monitors = slices.DeleteFunc(h.monitors, func(o *subscriber) bool { return o == s })
	h.stats.Skipped += s.queue.Skipped
}

// take empties s's queue.
func (h *Hub) take(s *subscriber) api.Events {
	h.mu.Lock()
	defer h.mu.Unlock()
	news := s.queue
	s.queue = api.Events{}
	news.Lost, s.lost = h.stats.Lost-s.lost, h.stats.Lost
	h.stats.Skipped += news.Skipped
	return news
}

// Flows returns the flows that were seen since a moment.
func (h *Hub) Flows(req api.FlowsRequest) api.FlowList {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept.list(req.Since)
}
