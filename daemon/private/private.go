// Package private tells whether a file, or the way to it, is in the hands of
// others than root.
//
// # Contract
//
// What is private can be changed, replaced, or led elsewhere by root and the user
// that podwalld runs as, and by nobody else. The answer holds for good, as those
// two are the only ones who could make it wrong.
package private

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MakeDir makes dir if need be. It returns an error, which says what to do, if
// dir is a link, or if it or anything on the way there is not private.
func MakeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case fi.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("directory %s is a symbolic link; name the directory that it leads to", dir)
	}
	if err := File(fi); err != nil {
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	if err := way(filepath.Dir(dir), mostLinks); err != nil {
		return fmt.Errorf("on the way to %s: %w", dir, err)
	}
	return nil
}

// File returns an error unless a file or directory is private. It does not look
// at the way there.
func File(fi fs.FileInfo) error {
	if err := owned(fi); err != nil {
		return err
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others can write it (mode %04o); take that away with chmod go-w", fi.Mode().Perm())
	}
	return nil
}

func owned(fi fs.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d; it must belong to the user that podwalld runs as", st.Uid)
	}
	return nil
}

// mostLinks is how many links may lead to one another, as the kernel has it.
const mostLinks = 40

// way returns an error unless each directory down to path, and each link on the
// way, is private. In a directory like /tmp, where all may write, nobody can
// replace what is not theirs.
func way(path string, links int) error {
	if path == filepath.Dir(path) {
		return nil // whoever has the root has everything
	}
	if err := way(filepath.Dir(path), links); err != nil {
		return err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case fi.Mode().Type() == fs.ModeSymlink:
		err = owned(fi)
	case fi.Mode()&fs.ModeSticky != 0:
		return at(path, owned(fi))
	default:
		return at(path, File(fi))
	}
	if err == nil && links == 0 {
		err = syscall.ELOOP
	}
	if err != nil {
		return at(path, err)
	}
	target, err := os.Readlink(path)
	if err == nil && !filepath.IsAbs(target) {
		var from string // without links, or .. in the target would mean another
		from, err = filepath.EvalSymlinks(filepath.Dir(path))
		target = filepath.Join(from, target)
	}
	if err != nil {
		return err
	}
	return way(filepath.Clean(target), links-1)
}

func at(path string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return err
}
