package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// unitFile installs podwalld.
const unitFile = "../../install/systemd/podwalld.service"

// unitSocket is where podwalld of the unit listens.
const unitSocket = "/run/podwall/podwalld.sock"

// bootUnit boots a systemd on the node, with podwalld's unit as it is installed,
// until the test ends. The one thing added is where the log goes.
func (n *node) bootUnit(t testing.TB) {
	t.Helper()
	units := filepath.Join(n.Dir, "units")
	must(t, os.MkdirAll(filepath.Join(units, "podwalld.service.d"), 0o755))
	unit, err := os.ReadFile(unitFile)
	must(t, err)
	for name, content := range map[string]string{
		"podwalld.service":            string(unit),
		"podwalld.service.d/log.conf": "[Service]\nStandardOutput=append:" + n.LogFile() + "\nStandardError=inherit\n",
		// What every service waits for, and nothing in it.
		"sysinit.target": "[Unit]\nDefaultDependencies=no\n", "basic.target": "[Unit]\nDefaultDependencies=no\n",
		"shutdown.target": "[Unit]\nDefaultDependencies=no\n", "local-fs.target": "[Unit]\nDefaultDependencies=no\n",
	} {
		must(t, os.WriteFile(filepath.Join(units, name), []byte(content), 0o644))
	}
	// What is mounted below /run shows on the machine, too, as unit and runtimes expect.
	must(t, unix.Mount("", "/run", "", unix.MS_SHARED, ""))
	m := machine{
		Units: units, Unit: "podwalld.service", Cgroup: "podwall-" + n.Name,
		Copies: map[string]string{"/usr/local/bin/podwalld": n.Binary("podwalld")},
		Binds:  map[string]string{"/etc/podwall/policies": n.Manifests(), "/var/lib/cni": n.CNICache()},
	}
	group, err := m.group()
	must(t, err)
	defer func() { _ = group.Close() }()
	cmd := m.command(t, group)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	must(t, n.Netns.Start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it all its processes
		_ = cmd.Wait()
		eventually(t, m.ungroup)
	})
	must(t, n.Ready(t.Context()))
}

// servant is the process that listens at the unit's socket.
func servant() (int, error) {
	c, err := net.Dial("unix", unitSocket)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// killed kills podwalld of the unit, calls meanwhile, and waits until systemd has
// started another.
func (n *node) killed(t testing.TB, meanwhile func()) {
	t.Helper()
	pid, err := servant()
	must(t, err)
	must(t, unix.Kill(pid, unix.SIGKILL))
	eventually(t, func() error {
		if _, err := servant(); err == nil {
			return errors.New("it still answers")
		}
		return nil
	})
	meanwhile()
	eventually(t, func() error {
		now, err := servant()
		if err == nil && now == pid {
			err = fmt.Errorf("process %d was not killed", pid)
		}
		return err
	})
	must(t, n.Ready(t.Context()))
}

// podwalld does all its work as the unit that is installed says, below a systemd
// which makes of the unit whatever it does: the seccomp filter, the read-only
// file systems, a /tmp of its own, the families of sockets, the capabilities. It
// is ready when systemd hears so, is started again when it was killed, and puts
// right what was changed meanwhile.
func TestUnit(t *testing.T) {
	t.Parallel()
	n := newNode(t, lab.SocketAt(unitSocket))
	n.bootUnit(t)
	n.web, n.friend, n.stranger = n.add(t, "shop", "web"), n.add(t, "shop", "friend"), n.add(t, "other", "stranger")
	expect(t, n.flows()...)
	pid, err := servant()
	must(t, err)
	n.sandboxed(t, pid)
	must(t, n.Check(t.Context(), n.Network(), n.web, "eth0"))
	must(t, n.WriteManifest("open.yaml", openToAll))
	expect(t, tcp(n.stranger, n.web, true))
	must(t, n.RemoveManifest("open.yaml"))
	expect(t, n.flows()...)

	late := n.bare(t, "shop", "late")
	n.killed(t, func() {
		_, err := n.web.RunErr("nft flush ruleset")
		must(t, err)
		expect(t, tcp(n.stranger, n.web, true)) // it is open, while nobody looks
		must(t, n.plugin(t.Context(), "DEL", n.stranger))
	})
	must(t, n.plugin(t.Context(), "ADD", n.stranger))
	must(t, n.plugin(t.Context(), "ADD", late))
	n.knows(t, late)
	expect(t, n.flows(late)...)
	must(t, n.plugin(t.Context(), "DEL", late))
	n.knows(t)
	if log := n.LogTail(); strings.Contains(log, "not permitted") || strings.Contains(log, "denied") || strings.Contains(log, "read-only") ||
		!strings.Contains(log, "changed by somebody else") {
		t.Errorf("podwalld misses something, or says nothing of the change:\n%s", log)
	}
}

// sandboxed demands that a process is confined as the unit says: else systemd
// made less of it than it says. The machine's own /etc and /run can be written.
func (n *node) sandboxed(t testing.TB, pid int) {
	t.Helper()
	isConfined(t, pid)
	for dir, want := range map[string]error{"/etc": unix.EROFS, "/run": unix.EROFS, "/run/podwall": nil, "/var/lib": unix.EROFS, "/var/lib/podwall": nil, "/tmp": nil} {
		if err := unix.Access(fmt.Sprintf("/proc/%d/root%s", pid, dir), unix.W_OK); !errors.Is(err, want) {
			t.Errorf("podwalld may write to %s: %v, want %v", dir, err, want)
		}
	}
}
