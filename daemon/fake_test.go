package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/logtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == probe.Hold { // the daemon under test has started itself
		os.Exit(run(context.Background(), os.Args[1:], nil, nil))
	}
	goleak.VerifyTestMain(m)
}

// A place is where a podwalld of a test has its files.
type place struct{ dir string }

// newPlace makes a place with an empty policy directory.
func newPlace(t testing.TB) place {
	t.Helper()
	p := place{t.TempDir()}
	if err := os.Mkdir(filepath.Join(p.dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) socket() string { return filepath.Join(p.dir, "run", "podwalld.sock") }

func (p place) args(more ...string) []string {
	return append([]string{
		"--socket", p.socket(), "--state-dir", filepath.Join(p.dir, "state"), "--policy-dir", filepath.Join(p.dir, "policies"),
		"--cni-cache-dir", filepath.Join(p.dir, "cni"), "--metrics-address", "", "--node-name", "here",
	}, more...)
}

// A running podwalld.
type running struct {
	log  *logtest.Buffer
	stop func() (status int, took time.Duration)
}

// start runs podwalld in this process until stop is called.
func start(t testing.TB, args []string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{log: &logtest.Buffer{}}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, r.log, r.log) }()
	r.stop = sync.OnceValues(func() (int, time.Duration) {
		start := time.Now()
		cancel()
		return <-ended, time.Since(start)
	})
	t.Cleanup(func() { r.stop() })
	return r
}

// ready waits until podwalld at p serves.
func (p place) ready(t testing.TB) error {
	t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = (api.Client{Socket: p.socket()}).Call(t.Context(), api.VerbReady, nil, nil, nil); err == nil {
			return nil
		}
	}
	return err
}

// notifications is systemd's end of sd_notify.
func notifications(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		b := make([]byte, 4096)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
}
