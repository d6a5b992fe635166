package lab

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

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/netnstest"
)

// A Netns is a network namespace with a name below /run/netns.
type Netns struct {
	*netnstest.NS
	path string
}

// newNetns makes a namespace and binds it to /run/netns/name, as runtimes do.
func newNetns(name string) (*Netns, error) {
	ns, err := netnstest.Make()
	if err != nil {
		return nil, err
	}
	n := &Netns{NS: ns, path: filepath.Join("/run/netns", name)}
	if err := n.bind(); err != nil {
		ns.Close()
		return nil, fmt.Errorf("bind network namespace: %w", err)
	}
	return n, nil
}

func (n *Netns) bind() error {
	f, err := os.OpenFile(n.path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close() // empty
	return unix.Mount(n.NS.Path(), n.path, "", unix.MS_BIND, "")
}

// Path is where the namespace is bound.
func (n *Netns) Path() string { return n.path }

// Delete removes the namespace's name and closes it, as a runtime does when a
// pod ends. The kernel keeps it as long as sockets in it are open. Again is
// harmless.
func (n *Netns) Delete() error {
	n.Close()
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", n.path, err)
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Start starts cmd inside the namespace.
func (n *Netns) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Output runs a program inside the namespace and returns its standard output.
// The error holds what it wrote to its standard error, and its exit status as an
// *exec.ExitError.
func (n *Netns) Output(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Listen is net.Listen inside the namespace.
func (n *Netns) Listen(network, addr string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket inside the namespace.
func (n *Netns) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = n.Do(func() error {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// DialFrom is net.Dialer.DialContext inside the namespace, from the local
// address if that is not empty.
func (n *Netns) DialFrom(ctx context.Context, d net.Dialer, network, addr string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Background runs a program inside the namespace, with its output in a file,
// until what it returns is called.
func (n *Netns) Background(output, name string, args ...string) (stop func(), err error) {
	f, err := os.Create(output)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // the program has its own descriptor
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := n.Start(cmd); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill() // fails only if it has ended already
		_ = cmd.Wait()
	}, nil
}
