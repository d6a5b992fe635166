// Package heal keeps files as they should be while others change them.
//
//	watch ──▶ plan ──▶ nothing to do ──▶ wait for a change ─┐
//	  ▲         └────▶ close the watch ──▶ apply ───────────┤
//	  └─────────────────────────────────────────────────────┘
//
// # Contract
//
// The watch begins before the look, so no change falls between the two, and ends
// before the writing, so a Healer never wakes up from what it wrote itself. What
// was written is looked at once more, under a new watch.
//
// However fast another writer undoes the work, a Healer applies changes at most
// once in Pause, and after errors less and less often. It says which file was
// undone and how often.
package heal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/podwall/podwall/install/change"
)

// A Watch tells of changes since it began.
type Watch interface {
	// Wait returns when something may have changed, or ctx has ended.
	Wait(ctx context.Context)
	// Close ends the watch.
	Close()
}

// A Healer applies what is planned whenever the plan is not empty.
type Healer struct {
	// Plan returns the changes that make the files what they should be. It writes
	// nothing.
	Plan func() ([]change.Change, error)
	// Apply makes the changes. change.ErrOutdated calls for a new plan.
	Apply func(context.Context, []change.Change) error
	Watch func() Watch
	Pause time.Duration // the least time from one Apply to the next
	Log   *slog.Logger

	last   time.Time            // when Apply was called
	failed int                  // times in a row that Apply failed
	stuck  []string             // the files of the plan that failed
	told   string               // the error that was logged last
	first  map[string]time.Time // when a file was first changed
	times  map[string]int       // how often a file was changed
}

// longest is the most that errors add to Pause.
const longest = 30 * time.Second

// Run works until ctx ends, and leaves everything in place.
func (h *Healer) Run(ctx context.Context) error {
	h.first, h.times = map[string]time.Time{}, map[string]int{}
	for ctx.Err() == nil {
		w := h.Watch()
		changes, err := h.Plan()
		h.note("look", err)
		if len(changes) == 0 {
			w.Wait(ctx)
			w.Close()
			continue
		}
		if rest := h.rest(changes); rest > 0 {
			h.wait(ctx, w, rest)
			continue // with what the plan is then
		}
		w.Close()
		h.apply(ctx, changes)
	}
	return nil
}

// rest returns how long Apply may not be called yet: longer than Pause only for
// the plan that failed.
func (h *Healer) rest(changes []change.Change) time.Duration {
	if h.last.IsZero() {
		return 0
	}
	least := h.Pause
	if slices.Equal(h.stuck, files(changes)) {
		for range h.failed {
			least = min(2*least, max(longest, h.Pause))
		}
	}
	return least - time.Since(h.last)
}

// wait waits for a change, but not longer than rest.
func (h *Healer) wait(ctx context.Context, w Watch, rest time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, rest)
	defer cancel()
	w.Wait(ctx)
	w.Close()
}

func files(changes []change.Change) []string {
	var paths []string
	for _, c := range changes {
		paths = append(paths, c.Path)
	}
	return paths
}

func (h *Healer) apply(ctx context.Context, changes []change.Change) {
	h.last = time.Now()
	err := h.Apply(ctx, changes)
	switch {
	case errors.Is(err, change.ErrOutdated):
		return // the next look sees what it is now
	case err != nil && ctx.Err() != nil:
		return // asked to stop
	case err != nil:
		h.failed, h.stuck = h.failed+1, files(changes)
		h.note("change files", err)
		return
	}
	h.failed, h.stuck = 0, nil
	for _, c := range changes {
		h.count(c)
	}
}

// count says that a file was changed, and of one that was changed before that
// somebody undid it.
func (h *Healer) count(c change.Change) {
	n := h.times[c.Path] + 1
	h.times[c.Path] = n
	if n == 1 {
		h.first[c.Path] = h.last
		h.Log.Info("file is as it should be now", "file", c.Path)
		return
	}
	h.Log.Warn("another program changes this file; podwall is in it again", "file", c.Path,
		"times", n-1, "within", h.last.Sub(h.first[c.Path]).Round(time.Millisecond))
}

// note logs an error, once however often it comes back.
func (h *Healer) note(doing string, err error) {
	switch {
	case err == nil && h.failed == 0:
		h.told = ""
	case err != nil && err.Error() != h.told:
		h.told = err.Error()
		h.Log.Error(doing, "error", err)
	}
}
