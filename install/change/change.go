// Package change makes files what they should be, whole or not at all.
//
// # Contract
//
// Whoever opens a file at any instant, also after a kill or a power failure in
// the middle of Apply, reads all of the old content or all of the new one. What
// Apply has returned without error is on the disk. A file that is no longer what
// the Change was made for is left alone: ErrOutdated, make a new Change.
//
// On the way there is a temporary file in the same directory, whose name no
// container runtime takes for a configuration or a plugin. A killed Apply leaves
// it behind, and Clean removes it; Lock keeps the two apart.
package change

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
)

// The names of temporary files: begin and end.
const (
	prefix = ".podwall-install-"
	suffix = ".tmp"
)

// ErrOutdated says that a file changed after the Change was made.
var ErrOutdated = errors.New("changed meanwhile")

// A Change is one file as it is and as it should be.
type Change struct {
	Path   string
	Before []byte // what is there; nil if there is no file
	After  []byte // what should be there; nil if there should be no file
	// MoveTo is where the file goes, as it is, in place of what is there. Then
	// After is nil.
	MoveTo string
	// Like is the file that a new one takes its owner and mode from; empty for one
	// that root owns and all may read. A file that is there keeps its own.
	Like string
	// Mode is the mode where it doesn't depend on other files; 0 where it does.
	Mode fs.FileMode
	// WithDir makes the file's directory if need be, and removes it with the file
	// if nothing else is in it. Whoever watches the directory above is woken up.
	WithDir bool
}

// Apply makes the change.
func (c Change) Apply() error {
	verb, fn := "write", c.write
	switch {
	case c.MoveTo != "":
		verb, fn = "move", func() error { return os.Rename(c.Path, c.MoveTo) }
	case c.After == nil:
		verb, fn = "remove", func() error { return os.Remove(c.Path) }
	}
	err := c.current()
	if err == nil {
		err = fn()
	}
	if err == nil {
		err = syncDir(filepath.Dir(c.Path))
	}
	if c.WithDir && c.After == nil {
		_ = os.Remove(filepath.Dir(c.Path)) // refused unless it is empty
	}
	if err == nil && c.WithDir {
		err = Wake(filepath.Dir(filepath.Dir(c.Path)))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", verb, c.Path, withoutPath(err), advice(err))
	}
	return nil
}

// current returns ErrOutdated unless the file is as the Change knows it.
func (c Change) current() error {
	now, err := os.ReadFile(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.Before == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return ErrOutdated
	case err != nil:
		return err
	case c.Before == nil || !bytes.Equal(now, c.Before):
		return ErrOutdated
	}
	return nil
}

func (c Change) write() error {
	if c.WithDir {
		if err := os.Mkdir(filepath.Dir(c.Path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(c.Path), prefix+"*"+suffix)
	if err != nil {
		return err
	}
	err = c.fill(tmp)
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = c.current() // once more: a file may be long
	}
	if err == nil {
		err = os.Rename(tmp.Name(), c.Path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // Clean does it otherwise
	}
	return err
}

// fill makes the temporary file what the file should be, and durable.
func (c Change) fill(tmp *os.File) error {
	if _, err := tmp.Write(c.After); err != nil {
		return err
	}
	if err := c.own(tmp); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := io.ReadAll(tmp)
	if err == nil && !bytes.Equal(got, c.After) {
		err = errors.New("the disk gives back other bytes than were written")
	}
	return err
}

// own gives the temporary file its owner and mode.
func (c Change) own(tmp *os.File) error {
	mode, uid, gid := fs.FileMode(0o644), 0, 0
	for _, path := range []string{c.Like, c.Path} {
		if fi, err := os.Stat(path); path != "" && err == nil {
			st := fi.Sys().(*syscall.Stat_t)
			mode, uid, gid = fi.Mode().Perm(), int(st.Uid), int(st.Gid)
		}
	}
	if c.Mode != 0 {
		mode, uid, gid = c.Mode, 0, 0
	}
	if uid != os.Geteuid() || gid != os.Getegid() {
		if err := tmp.Chown(uid, gid); err != nil {
			return err
		}
	}
	return tmp.Chmod(mode)
}

// Wake has whoever watches dir read it again. Container runtimes watch the directory
// of networks, not those below it: containerd 2.3 does not see a drop-in file until
// a file beside the directory is written or removed. An empty file takes no space on
// a full disk.
func Wake(dir string) error {
	tmp, err := os.CreateTemp(dir, prefix+"*"+suffix)
	if err != nil {
		return err
	}
	return errors.Join(tmp.Close(), os.Remove(tmp.Name()))
}

// Diff shows the change: as a unified diff where the file is text, and else as a
// line of comment.
func (c Change) Diff() string {
	if c.MoveTo != "" {
		return fmt.Sprintf("# move %s to %s\n", c.Path, c.MoveTo)
	}
	if !isText(c.Before) || !isText(c.After) {
		if c.After == nil {
			return fmt.Sprintf("# remove %s (%d bytes)\n", c.Path, len(c.Before))
		}
		there := "there is none"
		if c.Before != nil {
			there = fmt.Sprintf("in place of other %d bytes", len(c.Before))
		}
		return fmt.Sprintf("# write %s: %d bytes, mode %04o, %s\n", c.Path, len(c.After), c.Mode, there)
	}
	before, after := c.Path, c.Path
	if c.Before == nil {
		before = os.DevNull
	}
	if c.After == nil {
		after = os.DevNull
	}
	return string(diff.Diff(before, c.Before, after, c.After))
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // not every file system can
		return err
	}
	return nil
}
