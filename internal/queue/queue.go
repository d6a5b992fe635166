// Package queue keeps deletions for the daemon while it is away.
//
// A DEL must succeed without podwalld, and podwalld must learn of it all the
// same. So the plugin leaves a file for each attachment that it could not report
// in a directory beside the socket, and the daemon takes them when it is back:
//
//	plugin ──Push──▶ deleted/3fa9….json ──Drain──▶ podwalld
//	  ADD ──Cancel──▶   (removed)
//
// # Contract
//
// Push is atomic and durable: a file is there whole or not at all. Pushing a key
// twice leaves one file. The directory never holds more than Limit entries, so
// that a daemon which stays away fills no disk.
//
// The files are input like any other: what can't be read is set aside, and
// nothing in them makes this package panic.
package queue

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/podwall/podwall/internal/api"
)

const (
	// Limit is the number of entries beyond which Push refuses.
	Limit = 4096

	suffix    = ".json"
	temporary = "push-" // begins the names of files that Push has not finished
	aside     = ".unreadable"
	longest   = 4096        // bytes in a file
	stale     = time.Minute // after which a Push that has not finished never will
)

// ErrFull says that Limit entries are waiting.
var ErrFull = errors.New("queue is full")

// Dir is the queue's directory for a daemon that listens on socket.
func Dir(socket string) string { return filepath.Join(filepath.Dir(socket), "deleted") }

// Push queues the deletion of k in dir, which it makes if need be.
func Push(dir string, k api.Key) error {
	if err := push(dir, k); err != nil {
		return fmt.Errorf("queue deletion of %s: %w", k, err)
	}
	return nil
}

func push(dir string, k api.Key) error {
	if err := check(k); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if waiting := count(entries); waiting >= Limit {
		return fmt.Errorf("%s: %w with %d entries: start podwalld", dir, ErrFull, waiting)
	}
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return replace(dir, name(k), b)
}

// count returns how many entries wait, unfinished ones included.
func count(entries []fs.DirEntry) int {
	n := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) || strings.HasPrefix(e.Name(), temporary) {
			n++
		}
	}
	return n
}

// name is the file of k. A hash, since a container's id is the runtime's and may
// hold what a file name can't.
func name(k api.Key) string {
	sum := sha256.Sum256([]byte(k.ContainerID + "\x00" + k.Interface))
	return hex.EncodeToString(sum[:16]) + suffix
}

// replace puts content at dir/name, durably, in one step.
func replace(dir, name string, content []byte) error {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Cancel withdraws the deletion of k, if it is queued. Whoever adds k again must
// call it first, else a later Drain would delete what is new. Where a Drain is
// about to take k, Cancel returns after it has.
func Cancel(dir string, k api.Key) error {
	f, err := lock(filepath.Join(dir, name(k)))
	if err == nil {
		err = gone(os.Remove(f.Name()))
		_ = f.Close()
	}
	if gone(err) != nil {
		return fmt.Errorf("cancel deletion of %s: %w", k, err)
	}
	return nil
}

// lock opens the entry at path and keeps Cancel and Drain from meeting there
// until it is closed. An entry that another has taken does not exist.
func lock(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	if err == nil {
		err = syscall.Fstat(int(f.Fd()), &st)
	}
	if err == nil && st.Nlink == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Drain calls accept with each queued key, and removes those for which it
// returns nil; the others wait for the next Drain. A file that can't be read is
// renamed and reported once. No error keeps Drain from going on; it returns all
// of them joined. A directory that does not exist is an empty queue.
func Drain(dir string, accept func(api.Key) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	if err != nil {
		errs = append(errs, err) // entries holds what could be read
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), temporary):
			err = sweep(path, e)
		case strings.HasSuffix(e.Name(), suffix):
			err = take(path, accept)
		default:
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("queued deletion %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// sweep removes what a Push that was killed has left.
func sweep(path string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return gone(err) // finished meanwhile
	}
	if time.Since(info.ModTime()) < stale {
		return nil
	}
	return gone(os.Remove(path))
}

func take(path string, accept func(api.Key) error) error {
	f, err := lock(path)
	if err != nil {
		return gone(err) // cancelled meanwhile
	}
	defer f.Close()
	k, err := read(f)
	if err != nil {
		return errors.Join(err, os.Rename(path, path+aside))
	}
	if err := accept(k); err != nil {
		return err
	}
	return gone(os.Remove(path))
}

// gone is err unless that says that the file is gone already.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func read(r io.Reader) (api.Key, error) {
	b, err := io.ReadAll(io.LimitReader(r, longest+1))
	if err != nil {
		return api.Key{}, err
	}
	return Parse(b)
}

// Parse reads the content of one file.
func Parse(b []byte) (api.Key, error) {
	if len(b) > longest {
		return api.Key{}, fmt.Errorf("more than %d bytes", longest)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var k api.Key
	if err := d.Decode(&k); err != nil {
		return api.Key{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return api.Key{}, errors.New("more than one value")
	}
	return k, check(k)
}

// check refuses keys that no attachment has, so that whatever Push takes Parse
// reads.
func check(k api.Key) error {
	switch {
	case k.ContainerID == "":
		return errors.New("no container id")
	case k.Interface == "":
		return errors.New("no interface")
	case len(k.ContainerID) > 512:
		return fmt.Errorf("container id of %d bytes: at most 512 are kept", len(k.ContainerID))
	case len(k.Interface) > 15:
		return fmt.Errorf("interface %q: at most 15 bytes", k.Interface)
	case !utf8.ValidString(k.ContainerID), !utf8.ValidString(k.Interface):
		return fmt.Errorf("container id or interface of %q/%q: not UTF-8, which JSON can't hold", k.ContainerID, k.Interface)
	}
	return nil
}
