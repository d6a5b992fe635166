package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A machine is what a systemd is booted on, as the first process of its own. It
// can write nothing of the machine around it but /run, which is the tests' own,
// and finds no unit there but those of this test: a systemd that finds others
// clears /tmp, among much else.
//
//	test ── unshare: processes, mounts, names ──▶ booted ── exec ──▶ systemd ──▶ podwalld
//	                                              read-only /, empty /etc /tmp /var, cgroup2
type machine struct {
	Units  string            // the only directory of units, below /run
	Unit   string            // what to start
	Cgroup string            // name of the control group that is its root
	Copies map[string]string // programs: where they belong, and what to copy
	Binds  map[string]string // directories: where they belong, and what to show there
}

// booted is the first argument of this program when it is to become systemd.
const booted = "booted"

// systemd is where Debian and others have it.
const systemd = "/lib/systemd/systemd"

// command is the one that boots m, in the control group that is open as group.
func (m machine) command(t testing.TB, group *os.File) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(m)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("unshare", "--cgroup", "--pid", "--mount", "--uts", "--ipc", "--propagation", "slave", "--fork", "--kill-child", self, booted, string(b))
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	return cmd
}

// becomeSystemd does what command asked for; then it does not return.
func becomeSystemd() {
	if len(os.Args) != 3 || os.Args[1] != booted {
		return
	}
	var m machine
	err := json.Unmarshal([]byte(os.Args[2]), &m)
	if err == nil {
		err = m.furnish()
	}
	if err == nil {
		err = syscall.Exec(systemd, []string{systemd, "--system", "--unit=" + m.Unit, "--log-target=null", "--show-status=false"},
			[]string{"container=podwall", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_UNIT_PATH=" + m.Units, "SYSTEMD_GENERATOR_PATH=" + m.Units})
	}
	fmt.Fprintln(os.Stderr, "boot:", err)
	os.Exit(125)
}

// group makes the control group that is the root of all that the machine sees.
func (m machine) group() (dir *os.File, err error) {
	err = inGroups(func(top string) error {
		path := filepath.Join(top, m.Cgroup)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		dir, err = os.Open(path)
		return err
	})
	return dir, err
}

// inGroups calls fn with a directory where the second hierarchy of control groups
// is mounted meanwhile, whatever else of them this machine has.
func inGroups(fn func(top string) error) error {
	top, err := os.MkdirTemp("/run", "cgroup-")
	if err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", top, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2: %w", err)
	}
	return errors.Join(fn(top), unix.Unmount(top, unix.MNT_DETACH), os.Remove(top))
}

// ungroup removes the machine's control groups, once it is gone.
func (m machine) ungroup() error {
	return inGroups(func(top string) error {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(top, m.Cgroup), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		for _, d := range slices.Backward(dirs) {
			err = errors.Join(err, unix.Rmdir(d))
		}
		return err
	})
}

// furnish makes the machine's mounts, and demands that nothing else can be
// written before systemd may try.
func (m machine) furnish() error {
	programs, err := m.programs() // before anything hides them
	if err != nil {
		return err
	}
	if err := readOnly("/", unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
		return err
	}
	if err := readOnly("/run", 0, 0, unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	for _, d := range []string{"/etc", "/tmp", "/var", "/usr/local/bin"} {
		if err := unix.Mount("machine", d, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
	}
	err = errors.Join(
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""),
		readOnly("/proc/sys", 0, unix.MOUNT_ATTR_RDONLY, 0),
		unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""),
		os.MkdirAll("/var/tmp", 0o777))
	for to, content := range programs {
		err = errors.Join(err, os.WriteFile(to, content, 0o755))
	}
	for to, from := range m.Binds {
		err = errors.Join(err, os.MkdirAll(to, 0o755), unix.Mount(from, to, "", unix.MS_BIND, ""))
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"/", "/usr", "/root", "/home", "/proc/sys/kernel/pid_max"} {
		if err := unix.Access(name, unix.W_OK); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("%s of the machine around can be written: %v", name, err)
		}
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") // as systemd wants it, and services get it
}

func readOnly(path string, flags uint, set, clear uint64) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear}); err != nil {
		return fmt.Errorf("change mount %s: %w", path, err)
	}
	return nil
}

// programs are the contents of m.Copies, by where they belong.
func (m machine) programs() (map[string][]byte, error) {
	all := map[string][]byte{}
	for to, from := range m.Copies {
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		all[to] = b
	}
	return all, nil
}
