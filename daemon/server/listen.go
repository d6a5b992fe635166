package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes the socket at path, in place of one that a dead daemon left
// there. A socket that somebody still listens on, and a file that is no socket,
// are errors and stay as they are.
func Listen(path string) (*net.UnixListener, error) {
	if err := removeDead(path); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	// The mode counts from the first moment on: bind applies the umask.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l, nil
}

// removeDead removes a socket that nobody listens on.
func removeDead(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is something else already, of mode %s: move it away, or choose another path", fi.Mode())
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	// Any other answer than a refusal comes from somebody, if only a busy one.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return errors.New("another podwalld answers there")
	}
	return os.Remove(path)
}
