package events

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A journal keeps what was observed, and tells it to those who follow.
type journal struct {
	mu       sync.Mutex // guards what follows
	recent   [2]ring    // of drops and audits, and of accepts
	kept     *memory    // flows
	monitors []*subscriber
	stats    Stats
	troubled bool // the files can't be written
}

// The files of a journal, in its directory.
const (
	dropsFile   = "drops.jsonl"
	acceptsFile = "accepts.jsonl"
	flowsFile   = "flows.json"
)

// newJournal returns a journal that has no files.
func newJournal(now time.Time) *journal {
	return &journal{kept: newMemory("", now), stats: Stats{Events: map[ruleset.Fate]uint64{}}}
}

// open makes the files in dir the journal's, and reads them. Events that came
// after the flows were written are counted among them again, without labels.
func (j *journal) open(dir string) error {
	j.recent[0].path, j.recent[1].path = filepath.Join(dir, dropsFile), filepath.Join(dir, acceptsFile)
	j.kept.path = filepath.Join(dir, flowsFile)
	errs := []error{j.kept.load()}
	from := j.kept.next
	next := from
	for i := range j.recent {
		errs = append(errs, j.recent[i].load())
		for _, r := range j.recent[i].all() {
			if r.N >= from {
				j.kept.add(&r.Event)
				next = max(next, r.N+1)
			}
		}
	}
	j.kept.next = next
	return errors.Join(errs...)
}

// A haul is what was read from a socket.
type haul struct {
	events          []api.Event
	lost, malformed uint64 // events, datagrams
}

// publish keeps what was read, whose ends have names, and tells it.
func (j *journal) publish(h haul) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Lost += h.lost
	j.kept.Lost += h.lost
	j.stats.Malformed += h.malformed
	for i := range h.events {
		n := j.kept.add(&h.events[i])
		e := h.events[i]
		e.From.Labels, e.From.NamespaceLabels, e.To.Labels, e.To.NamespaceLabels = nil, nil, nil, nil
		j.stats.Events[e.Verdict]++
		ring := &j.recent[0]
		if e.Verdict == ruleset.Accepted {
			ring = &j.recent[1]
		}
		ring.add(record{n, e})
		for _, m := range j.monitors {
			m.offer(e)
		}
	}
}

// conceal counts what the kernel hid, and tells it.
func (j *journal) conceal(d api.Hidden) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Hidden += d.Drops + d.Accepts
	j.kept.Hidden += d.Drops + d.Accepts
	for _, m := range j.monitors {
		m.conceal(d)
	}
}

// counts returns the statistics so far.
func (j *journal) counts() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Events = maps.Clone(j.stats.Events)
	return s
}

// flush writes new events to their files.
func (j *journal) flush(log *slog.Logger) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trouble(log, errors.Join(j.recent[0].flush(), j.recent[1].flush()))
}

// save writes the flows to their file.
func (j *journal) save(log *slog.Logger) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trouble(log, j.kept.save())
}

// trouble logs what goes wrong with the files, once until it goes well.
func (j *journal) trouble(log *slog.Logger, err error) {
	if err != nil && !j.troubled {
		log.Error("events are not kept for the time after a restart", "error", err)
	}
	j.troubled = err != nil
}
