package nft

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// CheckNetns returns an error unless f refers to a network namespace that may be
// a pod's: not the one this process runs in, which is the node's, whose traffic a
// pod's rules would cut off.
func CheckNetns(f *os.File) error {
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fsys); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fsys.Type != unix.NSFS_MAGIC {
		return errors.New("not a network namespace but a file of another kind")
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return errors.New("not a network namespace but one of another kind")
	}
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open the node's own namespace: %w", err)
	}
	defer own.Close()
	if own.Equal(netns.NsHandle(f.Fd())) {
		return errors.New("is the node's own network namespace")
	}
	return nil
}
