package nft

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A home is the network namespace of this process. It is opened at the first visit
// to another one, and left for good by leave.
type home struct {
	open sync.Once
	ns   netns.NsHandle
	err  error
}

// socketIn returns a socket of nftables in another namespace. A thread goes there
// and comes back.
func (h *home) socketIn(other int) (fd int, err error) {
	h.open.Do(func() { h.ns, h.err = netns.Get() })
	if h.err != nil {
		return 0, fmt.Errorf("open the own namespace: %w", h.err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := netns.Set(netns.NsHandle(other)); err != nil {
		return 0, fmt.Errorf("enter the namespace: %w", err)
	}
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err := netns.Set(h.ns); err != nil {
		panic(fmt.Sprintf("come back from a pod's namespace: %v", err)) // this thread would do the node's work there
	}
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	return fd, nil
}

// leave closes what socketIn opened.
func (h *home) leave() {
	h.open.Do(func() { h.ns = netns.None() })
	if h.ns.IsOpen() {
		_ = h.ns.Close()
	}
}
