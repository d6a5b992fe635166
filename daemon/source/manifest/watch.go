package manifest

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/podwall/podwall/internal/api"
)

const (
	// quiet is how long nothing must happen before the directory is read:
	// writers rarely need one step only.
	quiet = 50 * time.Millisecond
	// patience ends a series of events that never pauses.
	patience = 300 * time.Millisecond
	// poll is how often a directory is looked at that can't be watched, since it
	// is not there or the kernel has no watches left.
	poll = 250 * time.Millisecond
)

// A watch tells when a directory may have changed.
type watch struct {
	dir    string
	rescan time.Duration
	notify *fsnotify.Watcher // nil if there is none
	on     os.FileInfo       // the directory that is watched; nil if none is
	fault  error             // why a directory that is there is not watched
}

// renew makes sure that the watch is on the directory that the path leads to
// now: it may have been replaced, or mounted over.
func (w *watch) renew() {
	fi, err := os.Stat(w.dir)
	if err == nil && w.on != nil && os.SameFile(fi, w.on) && len(w.notify.WatchList()) > 0 {
		return
	}
	if w.on != nil {
		_ = w.notify.Remove(w.dir) // it is gone already, if the directory is
	}
	w.on, w.fault = nil, nil
	if err != nil {
		return // which the scan reports
	}
	if w.notify == nil {
		if w.notify, w.fault = fsnotify.NewWatcher(); w.fault != nil {
			w.notify = nil
			return
		}
	}
	if w.fault = w.notify.Add(w.dir); w.fault == nil {
		w.on = fi
	}
}

// problems says if changes are found late.
func (w *watch) problems() []api.Problem {
	if w.fault == nil {
		return nil
	}
	return []api.Problem{{Object: w.dir, Message: fmt.Sprintf("can't be watched, so it is read every %v: %v", poll, w.fault)}}
}

// wait returns when the directory may have changed and is at rest, and reports
// false when ctx has ended.
func (w *watch) wait(ctx context.Context) bool {
	every := w.rescan
	if w.on == nil {
		every = min(poll, every)
	}
	again := time.NewTimer(every)
	defer again.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-again.C: // nothing was heard for long
		return true
	case <-w.events():
	case <-w.errors(): //nolint:errcheck // events were lost; reading everything makes up for it
	}
	rest := time.NewTimer(quiet)
	defer rest.Stop()
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.events(): // still being written
			rest.Reset(quiet)
		case <-w.errors(): //nolint:errcheck // as above
		case <-rest.C: // written
			return true
		case <-enough.C: // being written all the time
			return true
		}
	}
}

func (w *watch) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

func (w *watch) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

func (w *watch) close() {
	if w.notify != nil {
		_ = w.notify.Close() // nothing is left to do if that fails
	}
}
