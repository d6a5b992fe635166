package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// podwalld does not start where others could change what it believes, or lead it
// elsewhere. It says what to do, and changes nothing.
func TestLooseFilesAreRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, tt := range []struct {
		name    string
		prepare func(run, state string) error
		words   [2]string
	}{
		{"socket's directory that all can write", func(run, _ string) error { return os.Chmod(run, 0o777) }, [2]string{"socket", "chmod go-w"}},
		{"socket's directory that its group can write", func(run, _ string) error { return os.Chmod(run, 0o770) }, [2]string{"socket", "chmod go-w"}},
		{"socket's directory of somebody else's", func(run, _ string) error { return os.Chown(run, 65534, 0) }, [2]string{"socket", "user 65534"}},
		{"socket's directory that is a link", func(run, _ string) error { return moved(run) }, [2]string{"socket", "link"}},
		{"socket that is a link", func(run, _ string) error { return os.Symlink("/etc/hosts", filepath.Join(run, "podwalld.sock")) }, [2]string{"listen at", "something else"}},
		{"socket that is a file", func(run, _ string) error { return os.WriteFile(filepath.Join(run, "podwalld.sock"), nil, 0o600) }, [2]string{"listen at", "something else"}},
		{"state directory that all can write", func(_, state string) error { return os.Chmod(state, 0o777) }, [2]string{"stateDir", "chmod go-w"}},
		{"state directory of somebody else's", func(_, state string) error { return os.Chown(state, 65534, 0) }, [2]string{"stateDir", "user 65534"}},
		{"state directory that is a link", func(_, state string) error { return moved(state) }, [2]string{"stateDir", "symbolic link"}},
		{"database that all can write", func(_, state string) error { return os.Chmod(database(state), 0o666) }, [2]string{"stateDir", "chmod go-w"}},
		{"database of somebody else's", func(_, state string) error { return os.Chown(database(state), 65534, 0) }, [2]string{"stateDir", "user 65534"}},
		{"database that is a link", func(_, state string) error { return moved(database(state)) }, [2]string{"stateDir", "symbolic link"}},
		{"database that is a directory", func(_, state string) error {
			_ = os.Remove(database(state))
			return os.Mkdir(database(state), 0o700)
		}, [2]string{"stateDir", "directory"}},
		{"directory above the socket's that all can write", func(run, _ string) error { return os.Chmod(filepath.Dir(run), 0o777) }, [2]string{"socket", "chmod go-w"}},
		{"directory above the state's that all can write", func(_, state string) error { return os.Chmod(filepath.Dir(state), 0o777) }, [2]string{"stateDir", "chmod go-w"}},
		{"directory above the state's that is another's link", func(_, state string) error {
			if err := moved(filepath.Dir(state)); err != nil {
				return err
			}
			return os.Lchown(filepath.Dir(state), 65534, 0)
		}, [2]string{"stateDir", "user 65534"}},
	} {
		base := filepath.Join(n.Dir, strings.ReplaceAll(tt.name, " ", "-"))
		run, state := filepath.Join(base, "a", "run"), filepath.Join(base, "b", "state")
		must(t, os.MkdirAll(run, 0o700))
		must(t, os.MkdirAll(state, 0o700))
		if strings.HasPrefix(tt.name, "database") {
			must(t, os.WriteFile(database(state), nil, 0o600))
		}
		must(t, tt.prepare(run, state))
		t.Run(tt.name, func(t *testing.T) {
			n.failsToStart(t, tt.words[0], tt.words[1], "--socket", filepath.Join(run, "podwalld.sock"), "--state-dir", state)
			if aside, _ := filepath.Glob(filepath.Join(state, "*.broken-*")); len(aside) > 0 {
				t.Errorf("it made %v", aside)
			}
		})
	}
}

func database(state string) string { return filepath.Join(state, "state.db") }

// moved gives a file another name, and puts a link in its place.
func moved(name string) error {
	if err := os.Rename(name, name+".real"); err != nil {
		return err
	}
	return os.Symlink(name+".real", name)
}

// What podwalld makes is root's alone, whatever the umask.
func TestWhatIsMadeIsPrivate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Before = []string{"sh", "-c", `umask 0; exec "$@"`, "sh"}
	n.start(t)
	for name, want := range map[string]os.FileMode{n.Socket(): 0o600, n.StateDir(): 0o700, database(n.StateDir()): 0o600} {
		fi, err := os.Lstat(name)
		must(t, err)
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", name, fi.Mode().Perm(), want)
		}
	}
}

// unit returns a setting of the unit file that installs podwalld.
func unit(t testing.TB, key string) string {
	t.Helper()
	b, err := os.ReadFile(unitFile)
	must(t, err)
	for line := range bytes.Lines(b) {
		if k, v, ok := strings.Cut(strings.TrimSpace(string(line)), "="); ok && k == key {
			return v
		}
	}
	t.Fatalf("podwalld.service has no %s", key)
	return ""
}

// granted are the capabilities that the unit leaves to podwalld.
func granted(t testing.TB) []int {
	t.Helper()
	numbers := map[string]int{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_BROADCAST": unix.CAP_NET_BROADCAST, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH}
	var caps []int
	for _, name := range strings.Fields(unit(t, "CapabilityBoundingSet")) {
		c, ok := numbers[name]
		if !ok {
			t.Fatalf("the unit grants %s, which this test does not know", name)
		}
		caps = append(caps, c)
	}
	return caps
}

// enough are the system calls that podwalld may make: fewer than the unit's
// SystemCallFilter leaves it (@system-service without @privileged, @resources,
// @aio, @keyring, @setuid and @memlock, as systemd 252 has them), so what works
// here works there. Any other gives EPERM.
func enough() []int {
	const archPrctl = 158 // amd64's
	return []int{
		// processes, threads, memory, time
		unix.SYS_EXECVE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_CLONE, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_KILL,
		unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_FUTEX, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_YIELD,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_BRK, unix.SYS_NANOSLEEP,
		unix.SYS_CLOCK_GETTIME, unix.SYS_RESTART_SYSCALL, unix.SYS_GETRANDOM, unix.SYS_UNAME, unix.SYS_PRCTL, unix.SYS_GETEUID, unix.SYS_GETUID, archPrctl,
		// descriptors and files
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_CLOSE, unix.SYS_DUP3, unix.SYS_FCNTL, unix.SYS_OPENAT, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT,
		unix.SYS_STATX, unix.SYS_FSTATFS, unix.SYS_LSEEK, unix.SYS_GETDENTS64, unix.SYS_READLINKAT, unix.SYS_GETCWD, unix.SYS_IOCTL, unix.SYS_FLOCK, unix.SYS_FSYNC,
		unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_LINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UMASK, unix.SYS_FCHMODAT, unix.SYS_FADVISE64,
		// waiting
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_PSELECT6, unix.SYS_PPOLL,
		unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_RM_WATCH,
		// sockets, and the namespaces they are opened in
		unix.SYS_SOCKET, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SETSOCKOPT,
		unix.SYS_GETSOCKOPT, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN, unix.SYS_SETNS,
	}
}

// podwalld does all its work with the capabilities of its unit, without new
// privileges and with a seccomp filter narrower than the unit's: ADD, CHECK,
// changes of policy, repair, adoption, DEL, a damaged database, restarts.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	if v := unit(t, "NoNewPrivileges"); v != "yes" {
		t.Errorf("the unit has NoNewPrivileges=%s", v)
	}
	n := newNode(t)
	calls := enough()
	n.Before = confinement{Drop: true, Keep: granted(t), Allow: calls}.before(t)
	n.start(t)
	isConfined(t, n.Pid())
	sb := n.add(t, "shop", "more")
	must(t, n.Check(t.Context(), n.Network(), sb, "eth0"))
	n.knows(t, sb)
	must(t, n.WriteManifest("open.yaml", openToAll))
	expect(t, tcp(n.stranger, sb, true))
	must(t, n.RemoveManifest("open.yaml"))
	expect(t, n.flows(sb)...)
	if _, err := n.Policyctl(t.Context(), "explain", "--from", "shop/friend", "--to", "shop/web", "--port", "80"); err != nil {
		t.Error(err)
	}
	must(t, n.DelPod(t.Context(), sb))
	n.knows(t)
	must(t, n.Stop())
	for _, damaged := range []bool{false, true} {
		if damaged {
			must(t, os.Truncate(database(n.StateDir()), 5000))
		}
		must(t, n.Start(t.Context()))
		isConfined(t, n.Pid())
		n.knows(t)
		expect(t, n.flows()...)
		must(t, n.Kill())
	}
	gone := n.bare(t, "shop", "gone")
	must(t, n.plugin(t.Context(), "DEL", gone))
	must(t, n.Start(t.Context()))
	n.knows(t)
	if log := n.LogTail(); strings.Contains(log, "operation not permitted") || strings.Contains(log, "permission denied") {
		t.Errorf("podwalld misses something:\n%s", log)
	}
	t.Logf("%d capabilities, %d system calls", len(granted(t)), len(calls))
}

// isConfined demands that a process has the unit's capabilities, a filter of
// system calls, and can't get more of either.
func isConfined(t testing.TB, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	var caps uint64
	for _, c := range granted(t) {
		caps |= 1 << c
	}
	for _, want := range []string{fmt.Sprintf("CapEff:\t%016x", caps), fmt.Sprintf("CapBnd:\t%016x", caps), "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !bytes.Contains(b, []byte(want+"\n")) {
			t.Errorf("podwalld's status has no %q", want)
		}
	}
}

// Without either of the two capabilities that do its work podwalld adds no pod,
// and says why; so the test above would notice.
func TestTooLittlePrivilege(t *testing.T) {
	t.Parallel()
	for name, missing := range map[string]int{"NET_ADMIN": unix.CAP_NET_ADMIN, "SYS_ADMIN": unix.CAP_SYS_ADMIN} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			keep := slices.DeleteFunc(granted(t), func(c int) bool { return c == missing })
			n.Before = confinement{Drop: true, Keep: keep}.before(t)
			must(t, n.Start(t.Context()))
			refused(t, n.plugin(t.Context(), "ADD", n.bare(t, "shop", "web")), "not permitted")
		})
	}
}
