package nft

import (
	"errors"
	"fmt"
	"os"

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
	var own, other unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/thread-self/ns/net", &own), unix.Fstat(int(f.Fd()), &other)); err != nil {
		return fmt.Errorf("compare with the node's own namespace: %w", err)
	}
	if own.Dev == other.Dev && own.Ino == other.Ino {
		return errors.New("is the node's own network namespace")
	}
	return nil
}
