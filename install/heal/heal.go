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
// once in Pause. It says which file was undone and how often. One who does not give
// up is not fought without end: a file that is undone again and again is put right
// less and less often, as is one that can't be written, and Contested tells.
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
	// Contested is told when another writer turns out not to give up, and when there
	// is none any more. It may be nil.
	Contested func(bool)

	last   time.Time           // when Apply was called
	failed int                 // times in a row that Apply failed
	stuck  []string            // the files of the plan that failed
	told   string              // the error that was logged last
	work   map[string]*history // of each file
	fights bool                // what Contested was told last
}

// A history is what became of one file.
type history struct {
	first, last time.Time // when it was put right
	times       int       // how often
	undone      int       // how often in a row, without a calm in between
}

const (
	longest = 30 * time.Second // the most between one Apply and the next
	quick   = 5                // times in a row that a file is put right without delay
	calm    = 5 * time.Minute  // after which another writer has given up
)

// Run works until ctx ends, and leaves everything in place.
func (h *Healer) Run(ctx context.Context) error {
	h.work = map[string]*history{}
	for ctx.Err() == nil {
		h.judge()
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

// judge says whether there is another writer who does not give up.
func (h *Healer) judge() {
	fights := false
	for _, f := range h.work {
		if time.Since(f.last) > calm {
			f.undone = 0
		}
		fights = fights || f.undone > quick
	}
	if fights == h.fights {
		return
	}
	h.fights = fights
	if fights {
		h.Log.Error("another program does not let podwall in: it is put back less and less often; have that program write podwall's entry itself, or stop it")
	}
	if h.Contested != nil {
		h.Contested(fights)
	}
}

// rest returns how long Apply may not be called yet: longer than Pause only for
// the plan that failed, and for files that are undone again and again.
func (h *Healer) rest(changes []change.Change) time.Duration {
	if h.last.IsZero() {
		return 0
	}
	double := 0
	if slices.Equal(h.stuck, files(changes)) {
		double = h.failed
	}
	for _, c := range changes {
		if f := h.work[c.Path]; f != nil {
			double = max(double, f.undone-quick)
		}
	}
	least := h.Pause
	for range double {
		least = min(2*least, max(longest, h.Pause))
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
	f := h.work[c.Path]
	if f == nil {
		h.work[c.Path] = &history{first: h.last, last: h.last}
		h.Log.Info("file is as it should be now", "file", c.Path)
		return
	}
	f.last, f.times, f.undone = h.last, f.times+1, f.undone+1
	h.Log.Warn("another program changes this file; podwall is in it again", "file", c.Path,
		"times", f.times, "within", h.last.Sub(f.first).Round(time.Millisecond))
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
