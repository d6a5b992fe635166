package heal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/install/change"
	"github.com/podwall/podwall/internal/logtest"
)

// A world is one file that should read "ours", and a watch of it. It stands in
// for the file system where time is synctest's.
type world struct {
	mu      sync.Mutex
	text    string
	changed chan struct{} // to the watch that is open
	open    bool
	writes  []time.Time
	own     int    // writes of ours that a watch saw
	err     error  // of Apply
	more    bool   // another file is wrong too
	told    []bool // about fights
}

func newWorld(text string) *world { return &world{text: text, changed: make(chan struct{}, 1)} }

// write is what somebody else does.
func (w *world) write(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = text
	if w.open {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *world) Plan() ([]change.Change, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.text == "ours" {
		return nil, nil
	}
	changes := []change.Change{{Path: "file"}}
	if w.more {
		changes = append(changes, change.Change{Path: "other"})
	}
	return changes, nil
}

func (w *world) Apply(context.Context, []change.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
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
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = true
	return w
}

func (w *world) Wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.changed:
	case <-time.After(rescan): // as Dirs does
	}
}

func (w *world) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = false
	select {
	case <-w.changed:
	default:
	}
}

// spoilAnother is what somebody else does to a second file.
func (w *world) spoilAnother() {
	w.mu.Lock()
	w.more = true
	w.mu.Unlock()
	w.write("theirs too")
}

// fail makes Apply fail, or not with nil.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// contested is told about fights, and contests is what it was told.
func (w *world) contested(fights bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fights)
}

func (w *world) contests() []bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

// now is what the file reads and when it was written.
func (w *world) now() (text string, writes []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text, slices.Clone(w.writes)
}

// start runs a Healer of w until the test ends, and returns what it logs.
func start(t *testing.T, w *world) *logtest.Buffer {
	t.Helper()
	log := &logtest.Buffer{}
	h := Healer{Plan: w.Plan, Apply: w.Apply, Watch: w.Watch, Pause: time.Second, Contested: w.contested, Log: slog.New(slog.NewTextHandler(log, nil))}
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
	return log
}

func TestFirstRoundIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		begin := time.Now()
		log := start(t, w)
		synctest.Wait()
		if text, writes := w.now(); text != "ours" || len(writes) != 1 || !writes[0].Equal(begin) {
			t.Errorf("text %q, writes %v after the first round at %v", text, writes, begin)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, writes := w.now(); len(writes) != 1 {
			t.Errorf("wrote again without a reason: %v", writes)
		}
		w.write("theirs")
		synctest.Wait()
		if text, writes := w.now(); text != "ours" || len(writes) != 2 {
			t.Errorf("text %q, writes %v after somebody changed it", text, writes)
		}
		if !strings.Contains(log.String(), "file=file times=1 within=1h0m0s") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// Somebody who rewrites the file a hundred times a second makes us write once a
// second at first, and less and less often when he does not give up.
func TestFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("ours")
		log := start(t, w)
		synctest.Wait()
		fight := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				w.write("theirs")
				synctest.Wait()
			}
		}
		fight(4 * time.Second)
		time.Sleep(time.Second)
		synctest.Wait()
		text, writes := w.now()
		if text != "ours" || len(writes) < 4 || len(writes) > 6 {
			t.Errorf("a short fight is over; the file reads %q after %d writes", text, len(writes))
		}
		fight(10 * time.Minute)
		time.Sleep(longest)
		synctest.Wait()
		text, writes = w.now()
		if text != "ours" || len(writes) < 20 || len(writes) > 40 {
			t.Errorf("a long fight is over; the file reads %q after %d writes", text, len(writes))
		}
		for i := range writes[1:] {
			if gap := writes[i+1].Sub(writes[i]); gap < time.Second || gap > longest+time.Second {
				t.Errorf("write %d came %v after the one before it", i+1, gap)
			}
		}
		if !strings.Contains(log.String(), fmt.Sprintf("times=%d", len(writes)-1)) || strings.Count(log.String(), "level=ERROR") != 1 {
			t.Errorf("the log does not say how often, or not once what to do:\n%s", log)
		}
		if got := w.contests(); !slices.Equal(got, []bool{true}) {
			t.Errorf("told %v", got)
		}
		// After a calm the next change is put right at once.
		time.Sleep(2 * calm)
		if got := w.contests(); !slices.Equal(got, []bool{true, false}) {
			t.Errorf("told %v after a calm", got)
		}
		w.write("theirs")
		synctest.Wait()
		if text, _ := w.now(); text != "ours" {
			t.Errorf("text %q right after a change in a calm", text)
		}
	})
}

// An error is tried again, less and less often, and said once.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		w.fail(errors.New("disk is full"))
		log := start(t, w)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if _, writes := w.now(); len(writes) < 8 || len(writes) > 20 {
			t.Errorf("%d tries in 5 minutes", len(writes))
		}
		if n := strings.Count(log.String(), "disk is full"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
		w.fail(nil)
		time.Sleep(longest)
		synctest.Wait()
		if text, _ := w.now(); text != "ours" {
			t.Errorf("text %q when the error was gone for %v", text, longest)
		}
	})
}

// One file that can't be mended does not keep another waiting.
func TestErrorsDelayOnlyThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		w.fail(errors.New("disk is full"))
		start(t, w)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		_, before := w.now()
		w.spoilAnother()
		time.Sleep(time.Second)
		synctest.Wait()
		if _, writes := w.now(); len(writes) != len(before)+1 {
			t.Errorf("%d tries within a second, want 1", len(writes)-len(before))
		}
	})
}

// An outdated plan is made anew, and is no error.
func TestOutdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("theirs")
		w.fail(fmt.Errorf("write: %w", change.ErrOutdated))
		log := start(t, w)
		synctest.Wait()
		w.fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if text, _ := w.now(); text != "ours" || strings.Contains(log.String(), "ERROR") {
			t.Errorf("text %q, log:\n%s", text, log)
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
