package change

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

func TestApply(t *testing.T) {
	tests := []struct {
		name   string
		there  map[string]string
		change Change
		want   map[string]string
		err    error
	}{
		{"a new file", nil, Change{Path: "a", After: []byte("new")}, map[string]string{"a": "new"}, nil},
		{"in place of another", map[string]string{"a": "old"}, Change{Path: "a", Before: []byte("old"), After: []byte("new")},
			map[string]string{"a": "new"}, nil},
		{"an empty file is a file", map[string]string{"a": ""}, Change{Path: "a", Before: []byte{}, After: []byte("new")},
			map[string]string{"a": "new"}, nil},
		{"removed", map[string]string{"a": "old"}, Change{Path: "a", Before: []byte("old")}, nil, nil},
		{"moved over another", map[string]string{"a": "old", "b": "older"}, Change{Path: "a", Before: []byte("old"), MoveTo: "b"},
			map[string]string{"b": "old"}, nil},
		{"somebody else made it", map[string]string{"a": "theirs"}, Change{Path: "a", After: []byte("new")},
			map[string]string{"a": "theirs"}, ErrOutdated},
		{"somebody else changed it", map[string]string{"a": "theirs"}, Change{Path: "a", Before: []byte("old"), After: []byte("new")},
			map[string]string{"a": "theirs"}, ErrOutdated},
		{"somebody else removed it", nil, Change{Path: "a", Before: []byte("old"), After: []byte("new")}, nil, ErrOutdated},
		{"changed, and not to be removed", map[string]string{"a": "theirs"}, Change{Path: "a", Before: []byte("old")},
			map[string]string{"a": "theirs"}, ErrOutdated},
		{"with its directory", nil, Change{Path: "d/a", After: []byte("new"), WithDir: true}, map[string]string{"d/": "", "d/a": "new"}, nil},
		{"gone with its directory", map[string]string{"d/a": "old"}, Change{Path: "d/a", Before: []byte("old"), WithDir: true}, map[string]string{}, nil},
		{"gone from a directory with others", map[string]string{"d/a": "old", "d/b": "x"}, Change{Path: "d/a", Before: []byte("old"), WithDir: true},
			map[string]string{"d/": "", "d/b": "x"}, nil},
		{"no directory", nil, Change{Path: "d/a", After: []byte("new")}, nil, fs.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.there {
				write(t, filepath.Join(dir, name), text)
			}
			c := tt.change
			c.Path = filepath.Join(dir, c.Path)
			if c.MoveTo != "" {
				c.MoveTo = filepath.Join(dir, c.MoveTo)
			}
			if err := c.Apply(); !errors.Is(err, tt.err) {
				t.Errorf("Apply: %v, want %v", err, tt.err)
			}
			if got := tree(t, dir); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A file that is changed keeps its mode and its owner; a new one takes those of
// the file it is like.
func TestModeAndOwner(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write(t, path, "old")
	if err := errors.Join(os.Chmod(path, 0o640), os.Chown(path, 12, 34)); err != nil {
		t.Fatal(err)
	}
	like := filepath.Join(dir, "b")
	fixed := filepath.Join(dir, "c")
	for _, c := range []Change{
		{Path: path, Before: []byte("old"), After: []byte("new")},
		{Path: like, After: []byte("x"), Like: path},
		{Path: fixed, After: []byte("x"), Mode: 0o755},
	} {
		if err := c.Apply(); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]syscall.Stat_t{
		path: {Mode: 0o640, Uid: 12, Gid: 34}, like: {Mode: 0o640, Uid: 12, Gid: 34}, fixed: {Mode: 0o755},
	} {
		var got syscall.Stat_t
		if err := syscall.Stat(path, &got); err != nil || got.Mode&0o7777 != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid {
			t.Errorf("%s: %v, mode %o of %d:%d, want %o of %d:%d", path, err, got.Mode&0o7777, got.Uid, got.Gid, want.Mode, want.Uid, want.Gid)
		}
	}
}

// A full disk leaves the old file, nothing else, and says what to do.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "podwall")
	write(t, path, "old")
	big := Change{Path: path, Before: []byte("old"), After: make([]byte, 1<<20), Mode: 0o755}
	err := big.Apply()
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("Apply: %v", err)
	}
	if got := tree(t, dir); !maps.Equal(got, map[string]string{"podwall": "old"}) {
		t.Errorf("after the failure: %q", got)
	}
	big.After = []byte("new")
	if err := big.Apply(); err != nil {
		t.Errorf("Apply of what fits: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	err := Change{Path: filepath.Join(dir, "podwall"), After: []byte("new")}.Apply()
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "name the directory") {
		t.Errorf("Apply: %v", err)
	}
}

// Clean removes what a killed Apply left, and nothing that is somebody else's.
func TestClean(t *testing.T) {
	dir := t.TempDir()
	keep := map[string]string{".10-x.conflist83": "renameio's", ".podwall-install-notes": "x", "podwall": "x"}
	for name, text := range keep {
		write(t, filepath.Join(dir, name), text)
	}
	tmp, err := os.CreateTemp(dir, prefix+"*"+suffix)
	if err != nil {
		t.Fatal(err)
	}
	if ext := filepath.Ext(tmp.Name()); slices.Contains([]string{".conf", ".conflist", ".json"}, ext) {
		t.Errorf("runtimes read files that end in %s", ext)
	}
	if err := errors.Join(tmp.Close(), Clean(dir)); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); !maps.Equal(got, keep) {
		t.Errorf("got %v, want %v", got, keep)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*again)
	defer cancel()
	if _, err := Lock(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v", err)
	}
	time.AfterFunc(2*again, unlock)
	second, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatalf("the lock when it is free again: %v", err)
	}
	second()
}

func TestDiff(t *testing.T) {
	tests := []struct {
		name   string
		change Change
		want   string
	}{
		{"text", Change{Path: "a", Before: []byte("1\n2\n"), After: []byte("1\n3\n")}, "diff a a\n--- a\n+++ a\n@@ -1,2 +1,2 @@\n 1\n-2\n+3\n"},
		{"new text", Change{Path: "a", After: []byte("1\n")}, "diff /dev/null a\n--- /dev/null\n+++ a\n@@ -0,0 +1,1 @@\n+1\n"},
		{"text that goes", Change{Path: "a", Before: []byte("1\n")}, "diff a /dev/null\n--- a\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-1\n"},
		{"move", Change{Path: "a", Before: []byte("1\n"), MoveTo: "b"}, "# move a to b\n"},
		{"binary", Change{Path: "a", After: []byte{0, 1}, Mode: 0o755}, "# write a: 2 bytes, mode 0755, there is none\n"},
		{"other binary", Change{Path: "a", Before: []byte{0}, After: []byte{0, 1}, Mode: 0o755}, "# write a: 2 bytes, mode 0755, in place of other 1 bytes\n"},
		{"binary that goes", Change{Path: "a", Before: []byte{0}}, "# remove a (1 bytes)\n"},
	}
	for _, tt := range tests {
		if got := tt.change.Diff(); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

// tree is what a directory holds, with all below it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if e.IsDir() {
			files[strings.TrimPrefix(path, dir+"/")+"/"] = ""
			return nil
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A runtime watches the directory of networks and not those below it, so that a
// change in one of these has to be heard above.
func TestDropInIsHeardAbove(t *testing.T) {
	dir := t.TempDir()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "net", "zz.conf")
	for _, c := range []Change{
		{Path: path, After: []byte("new"), WithDir: true},
		{Path: path, Before: []byte("new"), WithDir: true},
	} {
		if err := c.Apply(); err != nil {
			t.Fatal(err)
		}
		// The first removal is that of the file which wakes. containerd hears
		// writing, renaming and removing.
		for heard := false; !heard; {
			select {
			case e := <-w.Events:
				heard = e.Has(fsnotify.Remove) && strings.HasSuffix(e.Name, suffix)
			case <-time.After(5 * time.Second):
				t.Fatalf("nothing was removed beside %s", filepath.Dir(path))
			}
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
