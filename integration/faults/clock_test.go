package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/store"
)

// Across restarts the monotonic clock jumps by ten years, in a time namespace,
// and the wall clock by fifty, as far as podwalld can see that: everything it
// remembers, and every file it reads, is from the future or from long ago. It
// notices nothing, and neither does a packet.
//
// No namespace has a wall clock of its own, so that one is not set while podwalld
// runs. Package reconcile's tests do so where it counts.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	const decade = 10 * 365 * 24 * time.Hour
	n := newNode(t).start(t)
	streams := n.streams(t)
	jumps := 0
	for _, monotonic := range []time.Duration{0, decade} {
		for _, wall := range []time.Duration{-5 * decade, 5 * decade} {
			must(t, n.Kill())
			n.shift(t, wall)
			n.Before = []string{"unshare", "--time", "--monotonic", fmt.Sprint(int(monotonic.Seconds())), "--boottime", fmt.Sprint(int(monotonic.Seconds()))}
			must(t, n.Start(t.Context()))
			n.offset(t, monotonic)
			n.knows(t)
			sb := n.add(t, "shop", fmt.Sprintf("pod-%d", jumps))
			n.knows(t, sb)
			must(t, n.DelPod(t.Context(), sb))
			jumps++
		}
	}
	for _, s := range streams {
		s.end(t)
	}
	t.Logf("%d jumps of each clock", jumps)
}

// offset demands that podwalld's monotonic clock is ahead of the machine's.
func (n *node) offset(t testing.TB, by time.Duration) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", n.Pid()))
	must(t, err)
	f := strings.Fields(string(text))
	if len(f) < 2 || f[1] != fmt.Sprint(int(by.Seconds())) {
		t.Fatalf("offsets of podwalld's clocks are %q, want %s", text, by)
	}
}

// shift moves all times in what podwalld left behind, and in what it reads.
func (n *node) shift(t testing.TB, by time.Duration) {
	t.Helper()
	s, err := store.Open(filepath.Join(n.StateDir(), "state.db"))
	must(t, err)
	records, _, err := s.All()
	must(t, err)
	for i := range records {
		for _, at := range []*time.Time{&records[i].AddedAt, &records[i].AdoptedAt, &records[i].AppliedAt} {
			*at = time.Now().Add(by)
		}
	}
	must(t, s.PutMany(records))
	must(t, s.Close())
	for _, dir := range []string{n.Manifests(), n.StateDir(), filepath.Join(n.CNICache(), "results")} {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		for _, f := range files {
			must(t, os.Chtimes(f, time.Now().Add(by), time.Now().Add(by)))
		}
	}
}
