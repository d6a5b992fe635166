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

// A subscriber is a client of Monitor. The journal's mutex guards all but kick.
type subscriber struct {
	filter api.Filter
	picks  func(*api.Event) bool
	queue  api.Events
	lost   uint64        // of the journal's, when it was last told
	kick   chan struct{} // holds one token while there is something in queue
}

// offer gives e to s, or counts it as skipped. The journal's mutex is held.
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

// conceal tells s what was hidden. The journal's mutex is held.
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
func (j *journal) Monitor(ctx context.Context, req api.MonitorRequest, send func(api.Events) error) error {
	picks, err := req.Filter.Compile()
	if err != nil {
		return api.Errorf(api.CodeInvalid, "monitor: %v", err)
	}
	s := &subscriber{filter: req.Filter, picks: picks, kick: make(chan struct{}, 1)}
	if err := j.subscribe(s, req); err != nil {
		return err
	}
	defer j.unsubscribe(s)
	for {
		if err := send(j.take(s)); err != nil || !req.Follow {
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
func (j *journal) subscribe(s *subscriber, req api.MonitorRequest) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if req.Follow && len(j.monitors) >= maxMonitors {
		return api.Errorf(api.CodeUnavailable, "monitor: %d follow already: end one of them", len(j.monitors))
	}
	if !req.Since.IsZero() {
		for i := range j.recent {
			s.queue.Events = append(s.queue.Events, j.recent[i].since(req.Since)...)
		}
		s.queue.Events = slices.DeleteFunc(s.queue.Events, func(e api.Event) bool { return !s.picks(&e) })
		slices.SortStableFunc(s.queue.Events, func(a, b api.Event) int { return a.Time.Compare(b.Time) })
	}
	s.lost = j.stats.Lost
	if req.Follow {
		j.monitors = append(j.monitors, s)
	}
	return nil
}

func (j *journal) unsubscribe(s *subscriber) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.monitors = slices.DeleteFunc(j.monitors, func(o *subscriber) bool { return o == s })
	j.stats.Skipped += s.queue.Skipped
}

// take empties s's queue.
func (j *journal) take(s *subscriber) api.Events {
	j.mu.Lock()
	defer j.mu.Unlock()
	news := s.queue
	s.queue = api.Events{}
	news.Lost, s.lost = j.stats.Lost-s.lost, j.stats.Lost
	j.stats.Skipped += news.Skipped
	return news
}

// Flows returns the flows that were seen since a moment.
func (j *journal) Flows(req api.FlowsRequest) api.FlowList {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.kept.list(req.Since)
}
