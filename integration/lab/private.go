package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is set in the environment of the process that Private starts.
const inside = "PODWALL_PRIVATE"

// Private runs main on a private machine and returns its exit status: with its
// own network, processes, mounts, and an empty /run. To get there it starts the
// calling program once more with the same arguments, so call it first thing in
// main (or TestMain) and leave with what it returns.
//
// Interrupts go to the inner process. When the outer one is killed the inner
// one is too, and everything it started.
func Private(main func() int) int {
	// The first process's first thread must stay where it is: it is what others
	// see in /proc/1. The same lock keeps the outer thread, whose end would be
	// taken for the process's by PR_SET_PDEATHSIG.
	runtime.LockOSThread()
	if os.Getenv(inside) == "" {
		return enter()
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "private machine:", err)
		return 1
	}
	return main()
}

// enter starts the calling program again, as the first process of a new machine.
func enter() int {
	if err := buildPlugins(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 { // then be root at least on the new machine
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start private machine (needs root, or user namespaces):", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // fails only after its end, which Wait reports
		}
	}()
	return status(cmd.Wait())
}

// status is what a shell would make of a command's end.
func status(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return exit.ExitCode()
}

// furnish gives the machine its own /proc and /run.
func furnish() error {
	if err := os.Unsetenv(inside); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE}, // nothing mounted here shows elsewhere
		{"proc", "/proc", "proc", 0},
		{"run", "/run", "tmpfs", 0},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return os.Mkdir("/run/netns", 0o755)
}
