package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/queue"
)

// small mounts a file system of few bytes at dir until the test ends.
func small(t testing.TB, dir, options string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	must(t, unix.Mount("small", dir, "tmpfs", 0, "mode=0700,"+options))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill leaves no room in dir; what it returns makes room again.
func fill(t testing.TB, dir string) (empty func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	must(t, err)
	defer func() { _ = f.Close() }()
	for _, n := range []int{4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() { must(t, os.Remove(f.Name())) }
}

// With a disk that is full no pod is added, and the error says why. What runs
// goes on, policy changes are in force, pods can be deleted; and when there is
// room again nothing is left of it, nor after a restart.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	n := newNode(t, lab.StateOn(state))
	small(t, state, "size=256k")
	n.start(t)
	old := n.add(t, "shop", "old")
	empty := fill(t, state)

	// There is room in the database's own free pages for a few.
	var added []*lab.Sandbox
	late := n.bare(t, "shop", "late")
	err := n.plugin(t.Context(), "ADD", late)
	for ; err == nil && len(added) < 20; err = n.plugin(t.Context(), "ADD", late) {
		added = append(added, late)
		late = n.bare(t, "shop", fmt.Sprintf("late-%d", len(added)))
	}
	refused(t, err, "no space left on device", `"code": 11`)
	expect(t, n.flows(append(added, old)...)...)
	must(t, n.WriteManifest("open.yaml", openToAll))
	expect(t, tcp(n.stranger, n.web, true), tcp(n.stranger, old, true))
	must(t, n.RemoveManifest("open.yaml"))
	expect(t, n.flows(old)...)
	must(t, n.DelPod(t.Context(), old))
	n.knows(t, added...)

	empty()
	must(t, n.plugin(t.Context(), "ADD", late))
	n.knows(t, append(added, late)...)
	must(t, n.Kill())
	must(t, n.Start(t.Context()))
	n.knows(t, append(added, late)...)
	if note := n.status(t).Store.Note; note != "" {
		t.Errorf("after a restart the store says: %s", note)
	}
	expect(t, n.flows(late)...)
}

// podwalld starts on a full disk if its database is there. Else it says why it
// does not, and the pods keep their rules.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	n := newNode(t, lab.StateOn(state))
	small(t, state, "size=256k")
	n.start(t)
	must(t, n.Kill())
	empty := fill(t, state)
	must(t, n.Start(t.Context()))
	n.knows(t)
	must(t, n.Kill())
	empty()

	must(t, os.Remove(filepath.Join(state, "state.db")))
	empty = fill(t, state)
	n.failsToStart(t, "stateDir", "no space left on device")
	expect(t, n.flows()...)
	empty()
	must(t, n.Start(t.Context()))
	n.knows(t)
	expect(t, n.flows()...)
}

// The socket's file system is full: podwalld does not start and says so, and a
// DEL that it can't be told of succeeds all the same. It learns of that from the
// namespace.
func TestFullDiskOfTheSocket(t *testing.T) {
	t.Parallel()
	n := newNode(t).start(t)
	gone := n.add(t, "shop", "gone")
	must(t, n.Kill())
	dir := queue.Dir(n.Socket())
	small(t, dir, "size=16k,nr_inodes=4")
	fill(t, dir)
	must(t, n.DelPod(t.Context(), gone))

	other := filepath.Join(n.Dir, "run")
	small(t, other, "size=4k,nr_inodes=1")
	n.failsToStart(t, "listen at", "no space left on device", "--socket", filepath.Join(other, "podwalld.sock"))
	must(t, n.Start(t.Context()))
	n.knows(t)
}

// As many deletions wait as are kept. One more succeeds too, and says on standard
// error what to do; once podwalld is back it knows of all of them.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	n := newNode(t).start(t)
	kept, more := n.add(t, "shop", "kept"), n.add(t, "shop", "more")
	must(t, n.Kill())
	must(t, n.Del(t.Context(), n.Network(), kept, "eth0")) // the namespace stays: only the queue tells
	dir := queue.Dir(n.Socket())
	for i := range queue.Limit - 1 {
		content := fmt.Appendf(nil, `{"containerID": "c%d", "interface": "eth0"}`, i)
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), content, 0o600))
	}
	must(t, n.DelPod(t.Context(), more))
	must(t, n.Start(t.Context()))
	n.knows(t)
	eventually(t, func() error {
		left, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if len(left) > 0 {
			err = fmt.Errorf("%d deletions still wait", len(left))
		}
		return err
	})
}

// Each write to the database and each fsync has its turn to fail, in ADD and in DEL. An ADD that worked is remembered, one that failed
// says why and leaves nothing, and the next one works.
func TestEachWriteFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	calls := map[string]int{"pwrite": unix.SYS_PWRITE64, "fdatasync": unix.SYS_FDATASYNC}
	in := newInjector(t, n, "disk.sock", unix.SYS_PWRITE64, unix.SYS_FDATASYNC)
	n.Before = in.before(t)
	n.start(t)
	sb := n.bare(t, "shop", "more")
	injected, failed := 0, 0
	for name, nr := range calls {
		for _, errno := range []unix.Errno{unix.ENOSPC, unix.EIO} {
			for k := 1; ; k++ {
				in.obey(nth(nr, k, errno))
				added := n.plugin(t.Context(), "ADD", sb)
				hit := in.injected()
				if added != nil {
					failed++
					refused(t, added, errno.Error(), `"code": 11`)
				}
				must(t, n.plugin(t.Context(), "DEL", sb)) // its own writes may meet the fault, and it never fails
				hit = max(hit, in.injected())
				in.obey(nil)
				must(t, n.plugin(t.Context(), "ADD", sb))
				must(t, n.exactly(t.Context(), []*lab.Sandbox{sb}))
				must(t, n.plugin(t.Context(), "DEL", sb))
				must(t, n.exactly(t.Context(), nil))
				if injected += hit; hit == 0 {
					t.Logf("%s: %d calls failed with %v", name, k-1, errno)
					break
				}
			}
		}
	}
	t.Logf("%d faults injected, %d ADDs failed", injected, failed)
	if injected < 10 || failed < 4 {
		t.Error("too few to prove anything")
	}
	must(t, n.plugin(t.Context(), "ADD", sb))
	must(t, n.Kill())
	must(t, n.Start(t.Context()))
	n.knows(t, sb)
	if note := n.status(t).Store.Note; note != "" {
		t.Errorf("after all that the store says: %s", note)
	}
	expect(t, n.flows(sb)...)
}

// As long as every write fails podwalld serves everything but ADD, and STATUS
// keeps runtimes from trying.
func TestDiskThatStaysBroken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	in := newInjector(t, n, "disk.sock", unix.SYS_FDATASYNC)
	n.Before = in.before(t)
	n.start(t)
	late := n.bare(t, "shop", "late")
	in.obey(each(unix.SYS_FDATASYNC, unix.EIO))
	for range 3 {
		refused(t, n.plugin(t.Context(), "ADD", late), "input/output error", `"code": 11`)
	}
	must(t, n.WriteManifest("open.yaml", openToAll))
	expect(t, tcp(n.stranger, n.web, true))
	must(t, n.RemoveManifest("open.yaml"))
	expect(t, n.flows()...)
	in.obey(nil)
	must(t, n.plugin(t.Context(), "ADD", late))
	must(t, n.Stop())
	must(t, n.Start(t.Context()))
	n.knows(t, late)
}
