package heal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/install/change"
)

// A world is one file that should read "ours", and a watch of it. It stands in
// for the file system where time is synctest's.
type world struct {
	text    string
	changed chan struct{} // to the watch that is open
	open    bool
	writes  []time.Time
	own     int   // writes of ours that a watch saw
	err     error // of Apply
}

func newWorld(text string) *world { return &world{text: text, changed: make(chan struct{}, 1)} }

// write is what somebody else does.
func (w *world) write(text string) {
	w.text = text
	if w.open {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *world) Plan() ([]change.Change, error) {
	if w.text == "ours" {
		return nil, nil
	}
	return []change.Change{{Path: "file"}}, nil
}

func (w *world) Apply(context.Context, []change.Change) error {
	w.writes = append(w.writes, time.Now())
	if w.open {
		w.own++
	}
	if w.err == nil {
		w.text = "ours"
	}
	return w.err
}

func (w *world) Watch() Watch {
	w.open = true
	return w
}

func (w *world) Wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.changed:
	}
}

func (w *world) Close() {
	w.open = false
	select {
	case <-w.changed:
	default:
	}
}

// start runs a Healer of w until the test ends, and returns what it logs.
func start(t *testing.T, w *world) *bytes.Buffer {
	t.Helper()
	var log bytes.Buffer
	h := Healer{Plan: w.Plan, Apply: w.Apply, Watch: w.Watch, Pause: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if w.own > 0 {
			t.Errorf("%d own writes fell into a watch", w.own)
		}
	})
	return &log
}

func TestFirstRoundIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		begin := time.Now()
		log := start(t, w)
		synctest.Wait()
		if w.text != "ours" || len(w.writes) != 1 || !w.writes[0].Equal(begin) {
			t.Errorf("text %q, writes %v after the first round at %v", w.text, w.writes, begin)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(w.writes) != 1 {
			t.Errorf("wrote again without a reason: %v", w.writes)
		}
		w.write("theirs")
		synctest.Wait()
		if w.text != "ours" || len(w.writes) != 2 {
			t.Errorf("text %q, writes %v after somebody changed it", w.text, w.writes)
		}
		if !strings.Contains(log.String(), "file=file times=1 within=1h0m0s") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// Somebody who rewrites the file a hundred times a second makes us write once a
// second.
func TestFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("ours")
		log := start(t, w)
		synctest.Wait()
		for range 1000 {
			w.write("theirs")
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if w.text != "ours" {
			t.Errorf("the fight is over and the file reads %q", w.text)
		}
		if len(w.writes) < 10 || len(w.writes) > 12 {
			t.Errorf("%d writes in 11 s", len(w.writes))
		}
		for i := range w.writes[1:] {
			if gap := w.writes[i+1].Sub(w.writes[i]); gap < time.Second {
				t.Errorf("write %d came %v after the one before it", i+1, gap)
			}
		}
		if !strings.Contains(log.String(), fmt.Sprintf("times=%d", len(w.writes)-1)) {
			t.Errorf("the log does not say how often:\n%s", log)
		}
	})
}

// An error is tried again, less and less often, and said once.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		w.err = errors.New("disk is full")
		log := start(t, w)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(w.writes); n < 8 || n > 20 {
			t.Errorf("%d tries in 5 minutes", n)
		}
		if n := strings.Count(log.String(), "disk is full"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
		w.err = nil
		time.Sleep(longest)
		synctest.Wait()
		if w.text != "ours" {
			t.Errorf("text %q when the error was gone for %v", w.text, longest)
		}
	})
}

// An outdated plan is made anew, and is no error.
func TestOutdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		w.err = fmt.Errorf("write: %w", change.ErrOutdated)
		log := start(t, w)
		synctest.Wait()
		w.err = nil
		time.Sleep(time.Second)
		synctest.Wait()
		if w.text != "ours" || strings.Contains(log.String(), "ERROR") {
			t.Errorf("text %q, log:\n%s", w.text, log)
		}
	})
}

// The watch of real directories hears every way to change a file, and one that
// appears later.
func TestDirs(t *testing.T) {
	tests := []struct {
		name string
		do   func(dir string) error
	}{
		{"made", func(dir string) error { return os.WriteFile(dir+"/new", nil, 0o600) }},
		{"written in place", func(dir string) error { return os.WriteFile(dir+"/old", []byte("x"), 0o600) }},
		{"removed", func(dir string) error { return os.Remove(dir + "/old") }},
		{"renamed over", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/../tmp", nil, 0o600), os.Rename(dir+"/../tmp", dir+"/old"))
		}},
		{"mode changed", func(dir string) error { return os.Chmod(dir+"/old", 0o755) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "d")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/old", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			w := Dirs(dir)
			defer w.Close()
			if err := tt.do(dir); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			w.Wait(t.Context())
			if took := time.Since(begin); took > rescan/2 {
				t.Errorf("heard after %v", took)
			}
		})
	}
	t.Run("no such directory", func(t *testing.T) {
		w := Dirs("/nowhere/at/all").(*dirs)
		defer w.Close()
		if w.every != poll {
			t.Errorf("looked at every %v, want %v", w.every, poll)
		}
	})
}

func TestWaitEndsWithContext(t *testing.T) {
	w := Dirs(t.TempDir())
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	w.Wait(ctx)
	if took := time.Since(begin); took > rescan/2 {
		t.Errorf("returned after %v", took)
	}
}
