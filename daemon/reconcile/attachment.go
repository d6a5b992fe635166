package reconcile

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
)

// An attachment is one interface that the Keeper keeps.
type attachment struct {
	// Guarded by the Keeper's mutex.
	record   store.Record
	status   api.AttachmentStatus
	adding   bool         // in the middle of ADD: rounds leave it alone
	gone     bool         // forgotten, while somebody may still hold it
	restored bool         // from the store, and not looked at yet
	look     bool         // somebody else may have changed the rules
	busy     bool         // they are being written, which is heard too
	meantime tamper.Event // the last that was heard while they were
	suspect  string       // who may have, if that was heard
	devices  bool         // somebody changed a device in the namespace
	stray    string       // what became of its device, while it is not what it was
	listens  bool         // changes in the namespace are heard, by the id space
	// sameSince says that its device was seen to be the same since they are.
	sameSince bool
	space     int32
	firewall  *policy.Firewall // that its rule set was last taken from
	known     *nft.Known
	notice    notice       // what the rules, where they stand, do not keep
	said      string       // of the notice, in the log
	applied   uint64       // the version whose rules stand
	stored    store.Record // what the store holds of it; zero if nothing
	// netns is the namespace, where record.Netns does not lead to it from here.
	netns *os.File

	// writing is held while the kernel is written or compared, so that rules of
	// an older version never replace newer ones. It is taken before the Keeper's
	// mutex.
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

// settle waits for the transaction of a forgotten attachment that is under way.
// There is no other one after it, so what comes next in that namespace stays.
func (a *attachment) settle() {
	a.writing.Lock()
	defer a.writing.Unlock()
}

// pending is the status of an attachment whose rules are not known to stand.
func pending(r store.Record, why string) api.AttachmentStatus {
	return api.AttachmentStatus{State: api.StatePending, Message: why, Revision: r.Revision, Epoch: r.Epoch,
		AppliedAt: r.AppliedAt, Took: r.Took}
}

// CheckKey returns an error unless key is one that the CNI specification allows.
// The Keeper takes no other.
func CheckKey(key api.Key) error {
	const longest = 255
	if err := utils.ValidateContainerID(key.ContainerID); err != nil {
		return err
	}
	if len(key.ContainerID) > longest {
		return fmt.Errorf("containerID of %d bytes: want at most %d", len(key.ContainerID), longest)
	}
	if err := utils.ValidateInterfaceName(key.Interface); err != nil {
		return err
	}
	return nil
}

// NetnsIDOf identifies the namespace that f refers to.
func NetnsIDOf(f *os.File) (store.NetnsID, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return store.NetnsID{}, fmt.Errorf("stat network namespace: %w", err)
	}
	return store.NetnsID{Device: st.Dev, Inode: st.Ino}, nil
}

// openNetns opens the namespace of r by its path. An error that matches
// errOtherNetns says that the path leads to another one, or nowhere: the
// attachment is gone.
func openNetns(r store.Record) (*os.File, error) {
	// O_NONBLOCK: opening a pipe would wait for its other end.
	f, err := os.OpenFile(r.Netns, os.O_RDONLY|unix.O_NONBLOCK, 0)
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
		err = nft.CheckNetns(f)
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
	record, kept, err := a.record, (*os.File)(nil), error(nil)
	if a.netns != nil {
		kept, err = duplicate(a.netns, 0)
	}
	k.mu.Unlock()
	if kept != nil || err != nil {
		return kept, err
	}
	return openNetns(record) // takes as long as the path does: nobody waits for it
}

// duplicate returns another descriptor of f, with a number of at least least.
func duplicate(f *os.File, least int) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, least)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// outOfTheWay moves f to a high descriptor number: it may be kept for long, and
// package nft can't do without the low ones.
func outOfTheWay(f *os.File) *os.File {
	moved, err := duplicate(f, 4096)
	if err != nil {
		return f // so many are not allowed: there are low ones enough, then
	}
	_ = f.Close()
	return moved
}

// stamp is the moment as records have it.
func stamp() time.Time { return time.Now().UTC() }
