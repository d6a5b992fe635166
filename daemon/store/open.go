package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/podwall/podwall/daemon/private"
)

// ErrLocked says that another process has the database open.
var ErrLocked = errors.New("another podwalld has it open")

const (
	lockWait  = time.Second
	lockRetry = 50 * time.Millisecond
)

// Open opens the database at path, and makes it and its directory if they are
// not there.
//
// A damaged file is never written to. It is renamed to path.broken-<time>, and
// what can be read of it goes into a new one; Note says so. It is an error, and
// nothing is touched, if another process has the database open (ErrLocked), if
// a newer podwalld wrote it (*SchemaError), or if others than root and the
// caller could have written it.
func Open(path string) (*Store, error) {
	if err := private.MakeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	for {
		s, err := openFile(path)
		var d *damage
		if !errors.As(err, &d) {
			return s, err
		}
		aside, replaced := replace(path, d)
		if errors.Is(replaced, errGone) {
			continue // somebody else has replaced it
		}
		if replaced != nil {
			return nil, errors.Join(err, replaced)
		}
		s, reopened := openFile(path)
		if reopened != nil {
			return nil, reopened
		}
		s.bad = d.records()
		s.notes = append(s.notes, fmt.Sprintf("%v; the file was set aside as %s, %s", err, aside, d.kept()))
		return s, nil
	}
}

// openFile opens the database in one attempt.
func openFile(path string) (*Store, error) {
	f, isNew, err := lock(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &Store{path: path, file: f}
	fi, err := f.Stat()
	if err == nil {
		err = s.start(fi, isNew)
	}
	if err == nil {
		return s, nil
	}
	if d := (*damage)(nil); errors.As(err, &d) {
		d.file = fi
	}
	_ = s.Close()
	_ = f.Close()
	return nil, fmt.Errorf("open %s: %w", path, err)
}

// start checks the locked file and hands it to bbolt.
func (s *Store) start(fi fs.FileInfo, isNew bool) (err error) {
	found := fsckResult{}
	switch {
	case fi.Size() > 0:
		found, err = fsck(s.file, fi.Size())
	case !isNew:
		err = damaged("it is empty")
	}
	if err != nil {
		return err
	}
	if found.oneMeta {
		s.notes = append(s.notes, "one of the file's two meta pages is damaged: the last change may be missing")
	}
	err = guarded(func() error {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{
			Timeout:        lockWait,
			NoFreelistSync: true,
			FreelistType:   bolt.FreelistMapType,
			OpenFile:       func(string, int, fs.FileMode) (*os.File, error) { return s.file, nil },
		})
		return err
	})
	if err != nil {
		return err
	}
	defer s.Unmap()
	return s.load(found.tx)
}

// lock opens the file at path, new if need be, and holds the lock that bbolt
// uses. bbolt then takes the same lock on the same descriptor once more.
func lock(path string) (f *os.File, isNew bool, err error) {
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockRetry) {
		f, isNew, err = tryLock(path)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, isNew, err
		}
		if time.Now().After(deadline) {
			return nil, false, ErrLocked
		}
	}
}

func tryLock(path string) (f *os.File, isNew bool, err error) {
	_, err = os.Lstat(path)
	isNew = errors.Is(err, fs.ErrNotExist)
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, false, errors.New("it is a symbolic link; put the database itself there")
	}
	if err == nil {
		err = lockFile(f, path)
	}
	if err == nil && isNew {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = f.Close() // nil if it was never open, which Close bears
		return nil, false, err
	}
	return f, isNew, nil
}

func lockFile(f *os.File, path string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file: %s", fi.Mode())
	}
	if err := private.File(fi); err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	// Whoever had the lock until now may have replaced the file.
	if now, err := os.Lstat(path); err != nil || !os.SameFile(fi, now) {
		return syscall.EWOULDBLOCK
	}
	return nil
}

// syncDir makes names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// guarded makes an error of a panic in fn, and of a fault in the mapped file
// (the disk fails, or somebody cuts the file while it is open).
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged("%v", p)
		}
	}()
	return fn()
}
