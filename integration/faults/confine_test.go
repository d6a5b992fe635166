package faults

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A confinement is what a program may do. The zero confinement lets it do
// everything.
type confinement struct {
	Drop     bool   // all capabilities but Keep, for good
	Keep     []int  // capabilities
	Allow    []int  // the only system calls that don't give EPERM; none: all
	Notify   []int  // the system calls that Listener is asked about
	Listener string // path of the socket that gets seccomp's listener
}

// confined is the first argument of this program when it is to become another,
// with a confinement and that other's command line behind it.
const confined = "confined"

// before returns what to put before a command line, so that it runs confined.
func (c confinement) before(t testing.TB) []string {
	t.Helper()
	b, err := json.Marshal(c)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	return []string{self, confined, string(b)}
}

// becomeOther does what before asked for; then it does not return.
func becomeOther() {
	if len(os.Args) < 4 || os.Args[1] != confined {
		return
	}
	var c confinement
	err := json.Unmarshal([]byte(os.Args[2]), &c)
	if err == nil {
		runtime.LockOSThread() // all that follows is the thread's
		err = c.enter()
	}
	if err == nil {
		err = syscall.Exec(os.Args[3], os.Args[3:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "confine:", err)
	os.Exit(125)
}

func (c confinement) enter() error {
	give, err := c.deliverer() // before the filter, which would bind it too
	if err != nil {
		return err
	}
	if c.Drop {
		if err := keepCapabilities(c.Keep); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if len(c.Notify) > 0 {
		const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		fd, err := filter(flags, unix.SECCOMP_RET_USER_NOTIF, c.Notify, unix.SECCOMP_RET_ALLOW)
		if err != nil {
			return err
		}
		if err := give(fd); err != nil {
			return fmt.Errorf("deliver seccomp's listener: %w", err)
		}
	}
	if len(c.Allow) > 0 {
		_, err = filter(0, unix.SECCOMP_RET_ALLOW, c.Allow, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	}
	return err
}

// deliverer returns a function that sends a descriptor to c.Listener, from a
// thread of its own, that no filter of the calling thread's binds.
func (c confinement) deliverer() (func(fd int) error, error) {
	if c.Listener == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Listener, Net: "unix"})
	if err != nil {
		return nil, err
	}
	fds, errs, ready := make(chan int), make(chan error), make(chan bool)
	go func() {
		runtime.LockOSThread()
		ready <- true
		_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(<-fds), nil)
		errs <- err
	}()
	<-ready
	return func(fd int) error {
		fds <- fd
		return <-errs
	}, nil
}

// keepCapabilities takes all others away, from what the thread will execute too.
func keepCapabilities(keep []int) error {
	var data [2]unix.CapUserData
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keep, c) {
			d := &data[c/32]
			d.Permitted |= 1 << (c % 32)
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL { // unknown to this kernel
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	for i := range data {
		data[i].Effective, data[i].Inheritable = data[i].Permitted, data[i].Permitted
	}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// filter makes the calling thread's system calls meet a seccomp filter: those
// that are listed get one action, the others another. It returns seccomp's
// result.
func filter(flags uintptr, listed uint32, calls []int, others uint32) (int, error) {
	code := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	for _, nr := range calls {
		code = append(code,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(nr), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: listed})
	}
	code = append(code, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: others})
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, fmt.Errorf("install seccomp filter: %w", errno)
	}
	return int(fd), nil
}
