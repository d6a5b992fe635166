// Package adopt finds the attachments that the node's runtimes have made, in
// libcni's cache: pods that ran before podwall came, or that its database lost.
//
//	/var/lib/cni/results/NETWORK-CONTAINER-INTERFACE ──Find──▶ store.Record
//
// # Contract
//
// Find only reads. What it can't make sense of it reports and leaves out; other
// entries count all the same, and nothing in a file makes this package panic. It
// returns attachments whose network namespace exists, and of these the ones that
// podwall should have: each on a network whose plugins podwall was chained
// behind, and on any other a pod's first interface (eth0, where every container
// runtime of Kubernetes puts the pod network). A secondary network that nobody
// gave to podwall, and a container that is no pod, are left alone.
package adopt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// firstInterface is where runtimes put the pod network.
const firstInterface = "eth0"

// longest is the number of bytes that are read of an entry.
const longest = 1 << 20

// A Finder finds attachments. Its fields are set before the first call.
type Finder struct {
	Dir string // libcni's cache
	// Known tells of an attachment that it need not be found.
	Known func(api.Key) bool
	// Tracked tells whether podwall's table stands in a namespace. Where it does
	// not, the pod's connections were not tracked so far, and its record says so.
	Tracked func(netns int) bool
}

// Find returns the attachments as records that nothing has been applied for yet,
// and the entries that could not be read, joined.
func (f Finder) Find(now time.Time) ([]store.Record, error) {
	dir := filepath.Join(f.Dir, "results")
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no runtime here has used libcni
	}
	if err != nil {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var records []store.Record
	var errs []error
	for _, file := range files {
		r, ok, err := f.attachment(filepath.Join(dir, file.Name()), now)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a pod of the past
		case err != nil:
			errs = append(errs, fmt.Errorf("libcni's cache: %s: %w", file.Name(), err))
		case ok:
			records = append(records, r)
		}
	}
	return records, errors.Join(errs...)
}

// attachment makes a record of one file, if it is one to adopt. A file or a
// namespace that is gone is an error that matches fs.ErrNotExist.
func (f Finder) attachment(path string, now time.Time) (r store.Record, ok bool, err error) {
	content, err := read(path)
	if err != nil {
		return r, false, err
	}
	e, err := parse(content)
	if err != nil || !e.wanted() {
		return r, false, err
	}
	r.Attachment, err = e.attachment()
	if err != nil || f.Known(r.Key) {
		return r, false, err
	}
	netns, err := openFile(r.Netns)
	if err != nil {
		return r, false, fmt.Errorf("network namespace: %w", err)
	}
	defer netns.Close()
	if err := nft.CheckNetns(netns); err != nil {
		return r, false, fmt.Errorf("network namespace: %s: %w", r.Netns, err)
	}
	if !f.Tracked(int(netns.Fd())) {
		r.Adopted, r.AdoptedAt = ruleset.AdoptedNow, now
	}
	r.NetnsID, err = reconcile.NetnsIDOf(netns)
	return r, err == nil, err
}

// read returns the content of a regular file.
func read(path string) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(errors.New("want a regular file"), err)
	}
	content, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err == nil && len(content) > longest {
		err = fmt.Errorf("more than %d bytes", longest)
	}
	return content, err
}

// openFile opens what may be no file at all: O_NONBLOCK, since opening a pipe
// would wait for its other end.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
}
