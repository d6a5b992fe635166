package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListenReplacesOnlyDeadSockets(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string // in the error; empty if Listen works
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"a dead daemon's socket", func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			_ = l.Close()
		}, ""},
		{"a living daemon's socket", func(t *testing.T, path string) {
			l, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "another podwalld answers"},
		{"a daemon's socket with a full queue", full, "another podwalld answers"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "something else"},
		{"a link", func(t *testing.T, path string) {
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}, "something else"},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "something else"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			tt.make(t, path)
			before, _ := os.Lstat(path)
			l, err := Listen(path)
			if err == nil {
				defer l.Close()
			}
			if (tt.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("Listen: %v, want %q", err, tt.want)
			}
			after, lerr := os.Lstat(path)
			switch {
			case lerr != nil:
				t.Errorf("afterwards: %v", lerr)
			case err != nil && !os.SameFile(before, after):
				t.Errorf("what was there is gone: %s, before %s", after.Mode(), before.Mode())
			case err == nil && after.Mode() != os.ModeSocket|0o600:
				t.Errorf("mode = %s, want a socket for root alone", after.Mode())
			}
		})
	}
}

// full listens at path and accepts nobody until no further client is let in.
func full(t *testing.T, path string) {
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	l := socket()
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := unix.Connect(socket(), &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			return
		}
	}
	t.Fatal("the queue takes everybody")
}

// Files that others make meanwhile have their usual mode.
func TestListenRestoresTheUmask(t *testing.T) {
	before := unix.Umask(0o022)
	defer unix.Umask(before)
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if got := unix.Umask(0o022); got != 0o022 {
		t.Errorf("umask = %#o afterwards, want 022", got)
	}
}
