package faults

import (
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A notice is a system call that is about to be made: seccomp_notif.
type notice struct {
	id        uint64
	thread    uint32
	flags     uint32
	nr        int32
	arch      uint32
	ip        uint64
	arguments [6]uint64
}

// A reply is what becomes of it: seccomp_notif_resp.
type reply struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// killed is the errno of a rule that lets the caller die instead.
const killed = unix.Errno(0xfff)

// A rule says what becomes of the n-th call of a kind, counted from 1 since the
// rule was set: 0 lets it go on.
type rule func(nr, n int) unix.Errno

// An injector decides about system calls of all processes that were started with
// its confinement.
type injector struct {
	confinement

	mu    sync.Mutex
	rule  rule
	seen  map[int]int // by the call's number
	dealt int         // how many did not go on
}

// newInjector makes an injector that is asked about some system calls, and lets
// all of them go on until it has a rule.
func newInjector(t testing.TB, n *node, name string, calls ...int) *injector {
	t.Helper()
	in := &injector{confinement: confinement{Notify: calls, Listener: filepath.Join(n.Dir, name)}}
	in.obey(nil)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: in.Listener, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // the test is over
			}
			if fd, err := received(c); err == nil {
				go in.serve(fd)
			} else {
				t.Errorf("receive seccomp's listener: %v", err)
			}
		}
	}()
	return in
}

// received returns the descriptor that comes over c, and closes c.
func received(c *net.UnixConn) (int, error) {
	defer func() { _ = c.Close() }()
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return 0, errors.Join(errors.New("want one descriptor"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

// obey sets the rule, and begins to count anew. No rule lets everything go on.
func (in *injector) obey(r rule) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.rule, in.seen, in.dealt = r, map[int]int{}, 0
}

// injected is how many calls did not go on since the rule was set.
func (in *injector) injected() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.dealt
}

// decide counts a call and asks the rule.
func (in *injector) decide(nr int) unix.Errno {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.seen[nr]++
	if in.rule == nil {
		return 0
	}
	errno := in.rule(nr, in.seen[nr])
	if errno != 0 {
		in.dealt++
	}
	return errno
}

// serve answers a listener until the last process that it belongs to is gone.
func (in *injector) serve(fd int) {
	defer func() { _ = unix.Close(fd) }()
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if p[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notice
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // who asked is gone
		}
		r := reply{id: n.id}
		switch errno := in.decide(int(n.nr)); errno {
		case 0:
			r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		case killed:
			_ = unix.Kill(int(n.thread), unix.SIGKILL) // or it is gone already
			continue
		default:
			r.errno = -int32(errno)
		}
		// Fails only if who asked is gone.
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	}
}

// nth lets the n-th call of a kind fail, and no other.
func nth(kind, n int, errno unix.Errno) rule {
	return func(nr, seen int) unix.Errno {
		if nr == kind && seen == n {
			return errno
		}
		return 0
	}
}

// each lets all calls of a kind fail.
func each(kind int, errno unix.Errno) rule {
	return func(nr, _ int) unix.Errno {
		if nr == kind {
			return errno
		}
		return 0
	}
}
