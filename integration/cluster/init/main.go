// Command init is the first process of a machine of the test cluster.
//
//	init '{"hostname": "node1", "mounts": [{"from": "/disk/cni", "to": "/etc/cni"}]}'
//
// It is started in new namespaces (mounts, processes, network, host name, IPC)
// and makes them a machine: its own /proc, /sys, /run and /tmp, its own copies of
// the directories and files that the mounts name, and nothing of all that visible
// from outside. The directories that it is to show are where they are outside, even
// those below /tmp. Then it says "ready" and buries the dead.
//
// # Contract
//
// It ends when its standard input does. With it ends every process of the
// machine, every mount, network device and namespace: whoever holds the other end
// of that pipe can't leave anything behind, however it dies.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// A setup is what makes a machine different from the one it is on.
type setup struct {
	Hostname string
	Mounts   []struct{ From, To string } // files or directories; To exists
	Shown    []string                    // directories
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var s setup
	if len(args) != 1 {
		return errors.New("want one argument, the setup in JSON")
	}
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	if os.Getpid() != 1 {
		return errors.New("not the first process: start it in a process namespace of its own")
	}
	if err := furnish(s); err != nil {
		return err
	}
	go bury()
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// furnish gives the machine its name and its mounts. They are shared from then
// on, since a kubelet passes mounts on to pods.
func furnish(s setup) error {
	if err := syscall.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("host name %s: %w", s.Hostname, err)
	}
	shown, err := show(s.Shown)
	if err != nil {
		return err
	}
	steps := []mount{
		{to: "/", flags: syscall.MS_REC | syscall.MS_PRIVATE},
		{from: "tmpfs", to: "/tmp", kind: "tmpfs"}, // holds the cgroups while /sys changes
		{from: "/sys/fs/cgroup", to: "/tmp/cgroup", flags: syscall.MS_BIND | syscall.MS_REC},
		{from: "sysfs", to: "/sys", kind: "sysfs"}, // shows this machine's network devices
		{from: "/tmp/cgroup", to: "/sys/fs/cgroup", flags: syscall.MS_MOVE},
		{from: "proc", to: "/proc", kind: "proc"},
		{from: "tmpfs", to: "/run", kind: "tmpfs"},
	}
	steps = append(steps, shown...)
	for _, m := range s.Mounts {
		steps = append(steps, mount{from: m.From, to: m.To, flags: syscall.MS_BIND})
	}
	steps = append(steps, mount{to: "/", flags: syscall.MS_REC | syscall.MS_SHARED})
	for _, m := range steps {
		if err := m.do(); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// show returns the mounts that put directories back where they are, from under what
// is going to cover them.
func show(dirs []string) (mounts []mount, err error) {
	for _, dir := range dirs {
		fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", dir, err)
		}
		mounts = append(mounts, mount{from: fmt.Sprintf("/proc/self/fd/%d", fd), to: dir, flags: syscall.MS_BIND | syscall.MS_REC})
	}
	return mounts, nil
}

// A mount is the arguments of mount(2).
type mount struct {
	from, to, kind string
	flags          uintptr
}

func (m mount) do() error {
	if strings.HasPrefix(m.to, "/tmp/") || strings.HasPrefix(m.to, "/run/") {
		if err := os.MkdirAll(m.to, 0o755); err != nil {
			return err
		}
	}
	return syscall.Mount(m.from, m.to, m.kind, m.flags, "")
}

// bury waits for the processes whose parents have ended.
func bury() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	for range died {
		for {
			if pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
	}
}
