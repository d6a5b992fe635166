package reconcile

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
)

// An attachment is one interface that the Keeper keeps.
type attachment struct {
	// Guarded by the Keeper's mutex.
	record   store.Record
	status   api.AttachmentStatus
	adding   bool // in the middle of ADD: not in the store yet
	gone     bool // forgotten, while somebody may still hold it
	restored bool // from the store, and not looked at yet
	look     bool // somebody else may have changed the rules
	known    *nft.Known
	applied  uint64 // the version whose rules stand
	// netns is the namespace, where record.Netns does not lead to it from here.
	netns *os.File

	// writing is held while the kernel is written, so that rules of an older
	// version never replace newer ones. It is taken before the Keeper's mutex.
	writing sync.Mutex
}

// forget lets go of what pins the namespace. The Keeper's mutex is held.
func (a *attachment) forget() {
	a.gone = true
	if a.netns != nil {
		_ = a.netns.Close()
		a.netns = nil
	}
}

// pending is the status of an attachment whose rules are not known to stand.
func pending(r store.Record, why string) api.AttachmentStatus {
	return api.AttachmentStatus{State: api.StatePending, Message: why, Revision: r.Revision, Epoch: r.Epoch,
		AppliedAt: r.AppliedAt, Took: r.Took}
}

// NetnsIDOf identifies the namespace that f refers to.
func NetnsIDOf(f *os.File) (store.NetnsID, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return store.NetnsID{}, fmt.Errorf("stat network namespace: %w", err)
	}
	return store.NetnsID{Device: st.Dev, Inode: st.Ino}, nil
}

// checkNetns returns an error unless f refers to a network namespace.
func checkNetns(f *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%s is no namespace", f.Name())
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is a namespace of another kind", f.Name())
	}
	return nil
}

// openNetns opens the namespace of r by its path. An error that matches
// errOtherNetns says that the path leads to another one, or nowhere: the
// attachment is gone.
func openNetns(r store.Record) (*os.File, error) {
	f, err := os.Open(r.Netns)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%w: %w", errOtherNetns, err)
	}
	if err != nil {
		return nil, err
	}
	id, err := NetnsIDOf(f)
	if err == nil && id != r.NetnsID {
		err = fmt.Errorf("%w: %s is another one now", errOtherNetns, r.Netns)
	}
	if err == nil {
		err = checkNetns(f)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// open returns the attachment's namespace; the caller closes it.
func (k *Keeper) open(a *attachment) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.netns == nil {
		return openNetns(a.record)
	}
	fd, err := unix.FcntlInt(a.netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), a.record.Netns), nil
}

// stamp is the moment as records have it.
func stamp() time.Time { return time.Now().UTC() }
