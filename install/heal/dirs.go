package heal

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing must happen before files are read: writers rarely
	// need one step only.
	quiet = 50 * time.Millisecond
	// patience ends a series of events that never pauses.
	patience = 500 * time.Millisecond
	// rescan is how often directories are read although nothing was heard.
	rescan = 10 * time.Second
	// poll is how often they are read when one can't be watched: it does not exist
	// yet, or the kernel has no watches left.
	poll = time.Second
)

// A dirs is a Watch of directories.
type dirs struct {
	notify *fsnotify.Watcher // nil if there is none
	every  time.Duration
}

// Dirs begins a watch of directories. One that can't be watched is looked at
// every second.
func Dirs(paths ...string) Watch {
	d := &dirs{every: rescan}
	var err error
	if d.notify, err = fsnotify.NewWatcher(); err != nil {
		return &dirs{every: poll}
	}
	for _, p := range paths {
		if d.notify.Add(p) != nil {
			d.every = poll
		}
	}
	return d
}

// Wait returns when the directories may have changed and are at rest, or ctx has
// ended.
func (d *dirs) Wait(ctx context.Context) {
	again := time.NewTimer(d.every)
	defer again.Stop()
	var events <-chan fsnotify.Event
	var lost <-chan error
	if d.notify != nil {
		events, lost = d.notify.Events, d.notify.Errors
	}
	select {
	case <-ctx.Done():
		return
	case <-again.C: // nothing was heard for long
		return
	case <-events:
	case <-lost: //nolint:errcheck // events were lost; a look at everything makes up for it
	}
	rest := time.NewTimer(quiet)
	defer rest.Stop()
	enough := time.NewTimer(patience)
	defer enough.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events: // still being written
			rest.Reset(quiet)
		case <-lost: //nolint:errcheck // as above
		case <-rest.C: // written
			return
		case <-enough.C: // being written all the time
			return
		}
	}
}

// Close ends the watch.
func (d *dirs) Close() {
	if d.notify != nil {
		_ = d.notify.Close() // nothing is left to do if that fails
	}
}
