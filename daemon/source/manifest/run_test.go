package manifest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a Source that runs on f until the test ends.
func running(t *testing.T, f folder) <-chan source.World {
	t.Helper()
	worlds := make(chan source.World, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	// No rescan rescues an event that was missed.
	var src source.Source = &Source{Dir: f.dir, Files: &memory{}, Rescan: time.Hour}
	go func() {
		done <- src.Run(ctx, into(t, worlds))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return worlds
}

// into sends the World that each Update leads to.
func into(t *testing.T, worlds chan<- source.World) func(source.Update) {
	first, known := true, policy.New(policy.Snapshot{})
	return func(u source.Update) {
		if u.Whole != first {
			t.Errorf("Whole is %t, first is %t", u.Whole, first)
		}
		first = false
		known.Apply(u.Change)
		worlds <- source.World{Snapshot: policy.Snapshot{Policies: slices.Collect(known.Policies())}, Problems: u.Problems, Objects: u.Objects}
	}
}

// published waits for a World with the given policies, in which there are
// problems or not, and says how long that took.
func published(t *testing.T, when string, worlds <-chan source.World, policies string, problems bool) {
	t.Helper()
	start := time.Now()
	var last source.World
	for {
		select {
		case last = <-worlds:
			if what(last) == policies && (len(last.Problems) > 0) == problems {
				t.Logf("%s: published after %v", when, time.Since(start).Round(time.Millisecond))
				return
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the last world has policies %q and problems %q, want %q", when, what(last), last.Problems, policies)
		}
	}
}

// silent checks that nothing is published for a while.
func silent(t *testing.T, when string, worlds <-chan source.World) {
	t.Helper()
	select {
	case w := <-worlds:
		t.Errorf("%s: published policies %q, problems %q; want nothing", when, what(w), w.Problems)
	case <-time.After(4 * quiet):
	}
}

func TestRunPublishesEachChange(t *testing.T) {
	f := newFolder(t)
	worlds := running(t, f)
	published(t, "empty directory", worlds, "", false)
	f.write("a.yaml", webPolicy)
	published(t, "new file", worlds, "shop/web", false)
	f.write("a.yaml", webPolicy)
	silent(t, "the same once more", worlds)
	f.write("b.txt", "")
	silent(t, "another file", worlds)
	f.write(".tmp", named("api"))
	f.must(os.Rename(f.path(".tmp"), f.path("a.yaml")))
	published(t, "renamed over", worlds, "shop/api", false)
	f.must(os.Truncate(f.path("a.yaml"), 0))
	published(t, "truncated", worlds, "shop/api", true)
	f.write("a.yaml", webPolicy)
	published(t, "written", worlds, "shop/web", false)
	f.must(os.Rename(f.path("a.yaml"), f.path("b.yaml")))
	silent(t, "renamed", worlds)
	f.remove("b.yaml")
	published(t, "deleted", worlds, "", false)
}

func TestRunTakesATruncatingEditorForOneChange(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", webPolicy)
	worlds := running(t, f)
	published(t, "before", worlds, "shop/web", false)
	out, err := os.OpenFile(f.path("a.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
	f.must(err)
	for _, part := range strings.SplitAfter(named("api"), "\n") {
		_, err := out.WriteString(part)
		f.must(err)
		time.Sleep(quiet / 10)
	}
	f.must(out.Close())
	if w := <-worlds; what(w) != "shop/api" || len(w.Problems) > 0 {
		t.Errorf("first world after the edit: %q, problems %q; want shop/api at once", what(w), w.Problems)
	}
}

// Kubelet swaps a ConfigMap's content by renaming a link to a directory.
func TestRunFollowsAConfigMapVolume(t *testing.T) {
	f := newFolder(t)
	version := func(n, content string) {
		f.must(os.Mkdir(f.path("..v"+n), 0o700))
		f.write("..v"+n+"/a.yaml", content)
		f.must(os.Symlink("..v"+n, f.path("..data_tmp")))
		f.must(os.Rename(f.path("..data_tmp"), f.path("..data")))
	}
	version("1", webPolicy)
	f.must(os.Symlink("..data/a.yaml", f.path("a.yaml")))
	worlds := running(t, f)
	published(t, "first version", worlds, "shop/web", false)
	version("2", named("api"))
	f.must(os.RemoveAll(f.path("..v1")))
	published(t, "second version", worlds, "shop/api", false)
}

func TestRunWaitsForItsDirectory(t *testing.T) {
	f := newFolder(t)
	f.must(os.Remove(f.dir))
	worlds := running(t, f)
	published(t, "missing", worlds, "", true)
	f.must(os.Mkdir(f.dir, 0o700))
	f.write("a.yaml", webPolicy)
	published(t, "made", worlds, "shop/web", false)
	for range 2 {
		f.must(os.Rename(f.dir, f.dir+".old"))
		published(t, "renamed away", worlds, "shop/web", true)
		f.must(os.Mkdir(f.dir, 0o700))
		published(t, "made again", worlds, "", false)
		f.write("a.yaml", webPolicy)
		published(t, "filled", worlds, "shop/web", false)
		f.must(os.RemoveAll(f.dir + ".old"))
	}
	f.must(os.RemoveAll(f.dir))
	published(t, "removed", worlds, "shop/web", true)
	f.must(os.Mkdir(f.dir, 0o700))
	f.write("b.yaml", named("api"))
	published(t, "made once more", worlds, "shop/api", false)
}

func TestRunFindsWhatNoEventTold(t *testing.T) {
	f := newFolder(t)
	elsewhere := newFolder(t)
	elsewhere.write("a.yaml", webPolicy)
	f.must(os.Symlink(elsewhere.path("a.yaml"), f.path("a.yaml")))
	worlds := make(chan source.World, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- (&Source{Dir: f.dir, Rescan: 20 * time.Millisecond}).Run(ctx, into(t, worlds))
	}()
	published(t, "before", worlds, "shop/web", false)
	elsewhere.write("a.yaml", named("api"))
	published(t, "after", worlds, "shop/api", false)
	cancel()
	f.must(<-done)
}
