package netnstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An NS is a network namespace that lives until its test ends, or whoever made
// it closes it. Its methods may be called from any goroutine.
type NS struct {
	fd   int
	link *netlink.Handle
}

// zeroed are the settings under /proc/sys/net that would make outcomes depend on
// time: an IPv6 address that is not usable yet, an ICMP error not sent because
// another one just was.
var zeroed = [...]string{
	"ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad",
	"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit",
}

// New makes a namespace with its loopback interface up. IPv6 addresses work
// there at once, and ICMP errors are sent at any rate.
func New(t testing.TB) *NS {
	t.Helper()
	ns, err := Make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	return ns
}

// Make is New for programs that are no tests. The caller closes the namespace.
func Make() (*NS, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make network namespace: needs root")
	}
	ns := &NS{fd: -1}
	if err := onThrowawayThread(ns.make); err != nil {
		ns.Close()
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// make moves the calling thread to a new namespace, which it keeps in ns.
func (ns *NS) make() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	for _, file := range zeroed {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("0"), 0); err != nil {
			return err
		}
	}
	if ns.link, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	lo, err := ns.link.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	return ns.link.LinkSetUp(lo)
}

// Close lets go of the namespace before the test ends. The kernel removes it
// when nothing else holds it: no process, socket, descriptor or bound name.
func (ns *NS) Close() {
	if ns.link != nil {
		ns.link.Close()
		ns.link = nil
	}
	if ns.fd >= 0 {
		_ = unix.Close(ns.fd) // a namespace's descriptor has nothing left to write
		ns.fd = -1
	}
}

// FD is the namespace's descriptor. It belongs to ns.
func (ns *NS) FD() int { return ns.fd }

// Path is a file that is the namespace. Other processes of root may open it as
// long as this one lives and ns is not closed.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd) }

// Inode tells namespaces apart.
func (ns *NS) Inode(t testing.TB) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(ns.fd, &st); err != nil {
		t.Fatalf("stat namespace: %v", err)
	}
	return st.Ino
}

// Netlink is a handle on the namespace's links, addresses and routes. It
// belongs to ns.
func (ns *NS) Netlink() *netlink.Handle { return ns.link }

// Bind gives the namespace the path /run/netns/name, as runtimes do, and returns
// it. The name goes away with the test, if nobody removed it before.
func (ns *NS) Bind(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	t.Cleanup(func() { Unbind(t, path) })
	if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s: %v", path, err)
	}
	return path
}

// Unbind removes a path that Bind made. Again is harmless.
func Unbind(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("unmount %s: %v", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Do calls fn on a thread inside the namespace and returns what fn returns.
// Sockets that fn makes and processes it starts stay inside; goroutines it
// starts do not. fn must not call t.Fatal.
func (ns *NS) Do(fn func() error) error {
	return onThrowawayThread(func() error {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// Run runs a shell command inside the namespace and returns its output. The
// test ends if any part of the command fails.
func (ns *NS) Run(t testing.TB, command string) string {
	t.Helper()
	out, err := ns.RunErr(command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// RunErr is Run for commands that may fail. The error tells what the command
// wrote to its standard error.
func (ns *NS) RunErr(command string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("sh", "-ec", command)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("run %q: %w: %s", command, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Listen is net.Listen inside the namespace. The listener and its connections
// work on any goroutine, and are closed with the test.
func (ns *NS) Listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// ListenPacket is net.ListenPacket inside the namespace. The socket works on any
// goroutine and is closed with the test.
func (ns *NS) ListenPacket(t testing.TB, network, addr string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Dial connects to a literal address from inside the namespace. The connection
// works on any goroutine; the caller closes it. It waits as long as ctx does.
func (ns *NS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
