package intruder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The names under which the calling program is started again.
const (
	strong = "intruder-with-all-capabilities"
	ready  = "intruder"
)

// The capabilities that a pod may have been given.
const (
	NetRaw   = unix.CAP_NET_RAW // the default of Docker and containerd
	NetAdmin = unix.CAP_NET_ADMIN
	SetFCap  = unix.CAP_SETFCAP // a default too; with it root becomes root of a user namespace
)

// Command is the calling program once more, as an intruder with exactly these
// capabilities, killed when ctx ends. The program must call Main first thing.
func Command(ctx context.Context, a Act, capabilities ...int) (*exec.Cmd, error) {
	b, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{strong, strings.Trim(fmt.Sprint(capabilities), "[]"), string(b)}
	return cmd, nil
}

// Main does what Command asked for and ends the process, if this process was
// started by a Command. Otherwise it returns at once.
func Main() {
	var err error
	switch os.Args[0] {
	case strong:
		err = weaken(os.Args[1:])
	case ready:
		var a Act
		if err = json.Unmarshal([]byte(os.Args[2]), &a); err == nil {
			err = a.do()
		}
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// weaken replaces the process by one whose capabilities are those in args[0].
func weaken(args []string) error {
	var keep []int
	for word := range strings.FieldsSeq(args[0]) {
		c, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		keep = append(keep, c)
	}
	// Capabilities belong to threads; exec keeps this one's and no other.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err) // EINVAL: newer than the kernel
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return syscall.Exec("/proc/self/exe", append([]string{ready}, args...), os.Environ())
}

func (a Act) do() error {
	if a.Script != "" {
		cmd := exec.Command("sh", "-ec", a.Script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("script: %w: %s", err, out)
		}
	}
	if err := fill(a.Fill); err != nil {
		return err
	}
	var errs []error
	for i, s := range a.Sends {
		if err := s.do(); err != nil {
			errs = append(errs, fmt.Errorf("send %d: %w", i, err))
		}
	}
	if a.Sniff != nil {
		errs = append(errs, sniff(a.Sniff))
	}
	return errors.Join(errs...)
}

// setsockopt is the system call, for options that unix has no name for.
func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	if errno != 0 {
		return fmt.Errorf("set option %d of level %d: %w", name, level, errno)
	}
	return nil
}
