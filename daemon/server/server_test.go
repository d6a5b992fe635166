package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// Whatever a client sends, it gets a refusal or loses its connection, and the
// next one is served.
func TestRubbish(t *testing.T) {
	h := serve(t, paper(), Limits{Connections: 8, Idle: 100 * time.Millisecond, Request: time.Second})
	tests := []struct {
		name string
		sent []byte
		want string // in the answer; empty if there is none
	}{
		{"nothing", nil, "timeout"},
		{"half a length", []byte{0, 0}, "timeout"},
		{"half a frame", frame(`{"version":1,"verb":"ready"}`)[:12], "timeout"},
		{"no JSON", frame("\x00\xff rubbish"), "message: invalid character"},
		{"another version", frame(`{"version":7,"verb":"ready"}`), "version 7"},
		{"an unknown verb", frame(`{"version":1,"verb":"sudo"}`), `verb \"sudo\": unknown`},
		{"an answer", frame(`{"version":1,"verb":"done"}`), `verb \"done\": unknown`},
		{"a body of another kind", frame(`{"version":1,"verb":"inspect"}` + "\n[1]"), "cannot unmarshal"},
		{"a verb without its body", frame(`{"version":1,"verb":"del"}`), "unexpected end"},
		{"gc without a network", frame(`{"version":1,"verb":"gc"}` + "\n" + `{"valid":[]}`), "network is empty"},
		{"gc without a list", frame(`{"version":1,"verb":"gc"}` + "\n" + `{"network":"net"}`), "valid is missing"},
		{"a length of 4 GiB", []byte{0xff, 0xff, 0xff, 0xff}, "at most"},
		{"5 MB", frame(strings.Repeat("x", 5<<20)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("unix", h.client.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, werr := c.Write(tt.sent)
			got, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still open")
			}
			if !strings.Contains(string(got), tt.want) || (tt.want == "" && werr == nil) {
				t.Errorf("answer %.200q, want %q in it", got, tt.want)
			}
			if err := h.ready(); err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	h := serve(t, paper(), DefaultLimits)
	var status api.Status
	if err := h.client.Call(t.Context(), api.VerbStatus, nil, &status, nil); err != nil || status.Node != "here" {
		t.Errorf("status = %+v, %v", status, err)
	}
	var pods []api.PodSummary
	if err := h.client.Call(t.Context(), api.VerbPods, nil, &pods, nil); err != nil || pods == nil || len(pods) > 0 {
		t.Errorf("pods = %+v, %v; want an empty list", pods, err)
	}
	var policies []api.PolicySummary
	if err := h.client.Call(t.Context(), api.VerbPolicies, nil, &policies, nil); err != nil || len(policies) != 1 {
		t.Errorf("policies = %+v, %v", policies, err)
	}
	if err := h.client.Call(t.Context(), api.VerbGC, api.GC{Network: "net", Valid: []api.Key{}}, nil, nil); err != nil {
		t.Errorf("gc: %v", err)
	}
	var verdict api.Explanation
	if err := h.client.Call(t.Context(), api.VerbExplain, api.ExplainRequest{From: "10.9.9.9", To: "shop/web", Port: 80, Protocol: 6}, &verdict, nil); err != nil {
		t.Errorf("explain: %v", err)
	}
	for verb, body := range map[api.Verb]any{api.VerbInspect: api.InspectRequest{Pod: "shop/web"}, api.VerbCheck: api.Attachment{}} {
		if err := h.client.Call(t.Context(), verb, body, nil, nil); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s of nobody: %v, want not found", verb, err)
		}
	}
}

// Requests under way end with the server, and their clients learn why.
func TestStop(t *testing.T) {
	h := serve(t, paper(), DefaultLimits)
	ns := netnstest.New(t)
	h.dial() // says nothing
	a := attachment(ns, "web", netip.MustParseAddr("10.0.0.2"))
	conn := h.dial()
	if err := conn.Send(t.Context(), api.VerbAdd, a, ns.FD()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := h.stop(); d > 2*time.Second {
		t.Errorf("stopping took %s", d)
	}
	h.refused(conn, api.CodeUnavailable, "wait for the plugin")
	if h.keeper.Knows(a.Key) {
		t.Error("the ADD under way is still known")
	}
	if err := h.ready(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a request after the end: %v", err)
	}
	if _, err := os.Lstat(h.client.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// A process without descriptors left accepts again when it has some.
func TestAcceptGoesOn(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	h := serve(t, paper(), DefaultLimits)
	c := h.dial()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }
	defer restore()
	// A connection without a descriptor of this process: the listener's queue has
	// it before accept fails.
	other := spare(t, &limit, h.client.Socket)
	defer unix.Close(other)
	netnstest.Eventually(t, func() error {
		if !strings.Contains(h.log.String(), "connection not accepted") {
			return errors.New("the log does not say that accept failed")
		}
		return nil
	})
	restore()
	if err := c.Send(t.Context(), api.VerbReady, nil, -1); err == nil {
		_, _, _ = c.Receive(t.Context()) // it may have made room
	}
	if err := h.ready(); err != nil {
		t.Errorf("after descriptors came back: %v", err)
	}
}

// spare connects to path while the limit of descriptors is low for everybody else.
func spare(t *testing.T, limit *unix.Rlimit, path string) int {
	t.Helper()
	var low unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, limit)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// The socket's mode keeps others out; should it ever not, the server does.
func TestOnlyRootIsHeard(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@podwall-test-%d", os.Getpid()), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &Server{Limits: DefaultLimits, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Handler: Handler{Keeper: reconcile.New(), Ready: func() error { return nil }}}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	for uid, want := range map[int]error{0: nil, 65534: api.ErrUnavailable} {
		answer := make(chan error)
		go func() { answer <- callAs(uid, l.Addr().String()) }()
		if err := <-answer; !errors.Is(err, want) {
			t.Errorf("user %d is told %v, want %v", uid, err, want)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "belongs to user 65534") {
		t.Errorf("log = %s", log.String())
	}
}

// callAs asks whether the server is ready, as another user. Its goroutine's thread
// is that user's from then on, and dies with it.
func callAs(uid int, socket string) error {
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return errno
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	_, _ = f.Write(frame(`{"version":1,"verb":"ready"}`))
	got, _ := io.ReadAll(f)
	if !strings.Contains(string(got), `"done"`) {
		return fmt.Errorf("%w: %q", api.ErrUnavailable, got)
	}
	return nil
}

func TestErrorsBecomeCodes(t *testing.T) {
	tests := []struct {
		err  error
		want api.Code
	}{
		{api.Errorf(api.CodeNotFound, "nobody"), api.CodeNotFound},
		{fmt.Errorf("wrapped: %w", api.Errorf(api.CodeInvalid, "no")), api.CodeInvalid},
		{fmt.Errorf("wait: %w", context.Canceled), api.CodeUnavailable},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), api.CodeUnavailable},
		{fmt.Errorf("read: %w", os.ErrDeadlineExceeded), api.CodeUnavailable},
		{errors.New("disk full"), api.CodeInternal},
	}
	for _, tt := range tests {
		if got := asError(tt.err); got.Code != tt.want || got.Message != tt.err.Error() {
			t.Errorf("%v becomes %+v, want code %s", tt.err, got, tt.want)
		}
	}
}
