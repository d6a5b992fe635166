package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return end(t, fds[0]), end(t, fds[1])
}

func end(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// soon is a context for what happens at once or never.
func soon(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// frame is b with its length.
func frame(b string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestMessageArrivesAsSent(t *testing.T) {
	a, b := pair(t)
	from, to := NewConn(a, MaxFrame), NewConn(b, MaxFrame)
	ctx := soon(t, 5*time.Second)
	sent := []Key{{"4f8c", "eth0"}, {strings.Repeat("x", 300_000), "net1"}, {}}
	done := make(chan error, 1)
	go func() {
		for _, k := range sent {
			if err := from.Send(ctx, VerbDel, k, -1); err != nil {
				done <- err
				return
			}
		}
		done <- from.Close()
	}()
	for i, want := range sent {
		e, file, err := to.Receive(ctx)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		var got Key
		if err := e.Decode(&got); err != nil || got != want || e.Verb != VerbDel || file != nil {
			t.Errorf("message %d: %s, decoded with %v, file %v; want a del of the key sent and no file", i, e.Verb, err, file)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, _, err := to.Receive(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v, want EOF", err)
	}
}

func TestDescriptorArrives(t *testing.T) {
	a, b := pair(t)
	ctx := soon(t, 5*time.Second)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := NewConn(a, MaxFrame).Send(ctx, VerbAdd, Attachment{}, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	_, got, err := NewConn(b, MaxFrame).Receive(ctx)
	if err != nil || got == nil {
		t.Fatalf("Receive = file %v, %v", got, err)
	}
	defer got.Close()
	want, _ := f.Stat()
	if st, err := got.Stat(); err != nil || !os.SameFile(st, want) {
		t.Errorf("the file that came is not the one that was sent: %v", err)
	}
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, got.Fd(), syscall.F_GETFD, 0)
	if errno != 0 || flags&syscall.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: want close-on-exec", flags, errno)
	}
}

// A client may send descriptors that nobody asked for, with messages that are
// none. None of them may stay open here.
func TestUnwantedDescriptorsAreClosed(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	many := syscall.UnixRights(int(f.Fd()), int(f.Fd()), int(f.Fd()))
	before := open(t)
	for range 20 {
		a, b := pair(t)
		for _, part := range []string{"\x00", "\x00\x00\x02", "{", "]"} {
			if _, _, err := a.WriteMsgUnix([]byte(part), many, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, file, err := NewConn(b, MaxRequest).Receive(soon(t, 5*time.Second)); !errors.Is(err, ErrInvalid) || file != nil {
			t.Errorf("Receive = file %v, %v, want an invalid message", file, err)
		}
		a.Close()
		b.Close()
	}
	if after := open(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// open counts this process's descriptors.
func open(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestBadFrames(t *testing.T) {
	const max = 64
	fits := `{"version":1,"verb":"` + strings.Repeat("x", 64-23) + `"}`
	tests := []struct {
		name string
		in   []byte
		want error
		text string // in the error
	}{
		{"nothing", nil, io.EOF, ""},
		{"half a length", []byte{0, 0}, io.ErrUnexpectedEOF, ""},
		{"half a message", frame(`{"version":1}`)[:9], io.ErrUnexpectedEOF, ""},
		{"a length of nothing", frame(""), ErrInvalid, "message"},
		{"no JSON", frame("rubbish"), ErrInvalid, "message"},
		{"two values", frame(`{"version":1}{}`), ErrInvalid, "message"},
		{"an array", frame(`[]`), ErrInvalid, "message"},
		{"the newer version", frame(`{"version":2}`), ErrInvalid, "version 2"},
		{"no version", frame(`{}`), ErrInvalid, "version 0"},
		{"exactly the limit", frame(fits), nil, ""},
		{"one byte more", frame(fits + " "), ErrInvalid, "65 bytes: at most 64"},
		{"a length without the bytes", []byte{0xff, 0xff, 0xff, 0xff}, ErrInvalid, "4294967295 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decode(bytes.NewReader(tt.in), max)
			if !errors.Is(err, tt.want) {
				t.Fatalf("decode = %v, want %v", err, tt.want)
			}
			if tt.text != "" && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("decode = %q, want it to say %q", err, tt.text)
			}
		})
	}
}

// Memory follows what arrives, not what is announced.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	in := frame("x")
	binary.BigEndian.PutUint32(in, MaxFrame)
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := decode(bytes.NewReader(in), MaxFrame); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("decode = %v", err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 64<<10 {
		t.Errorf("%d bytes allocated for one byte that came", n)
	}
}

// A peer that goes without having read its answer resets the connection, which
// may happen in the middle of what it says.
func TestResetInTheMiddleOfAMessage(t *testing.T) {
	a, b := pair(t)
	for _, w := range []struct {
		c    *net.UnixConn
		what []byte
	}{{a, []byte("never read")}, {b, frame("more than this")[:4]}} {
		if _, err := w.c.Write(w.what); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	if _, _, err := NewConn(a, MaxRequest).Receive(soon(t, 5*time.Second)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Receive = %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestOversizedMessageIsNotSent(t *testing.T) {
	a, _ := pair(t)
	err := NewConn(a, MaxFrame).Send(soon(t, 5*time.Second), VerbAdd, strings.Repeat("x", MaxFrame), -1)
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Send = %v, want an error that names the limit", err)
	}
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	_, b := pair(t)
	c := NewConn(b, MaxFrame)
	if _, _, err := c.Receive(soon(t, 5*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	if _, _, err := c.Receive(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("when cancelled: %v", err)
	}
}

// A call that timed out does not time out the next one.
func TestDeadlineIsTheCallsOwn(t *testing.T) {
	a, b := pair(t)
	c := NewConn(b, MaxFrame)
	_, _, _ = c.Receive(soon(t, time.Millisecond))
	if err := NewConn(a, MaxFrame).Send(t.Context(), VerbReady, nil, -1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Receive(t.Context()); err != nil {
		t.Errorf("Receive without deadline = %v", err)
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	a, _ := pair(t) // whose other end never reads
	err := NewConn(a, MaxFrame).Send(soon(t, 5*time.Millisecond), VerbAdd, strings.Repeat("x", 8<<20), -1)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send = %v, want its deadline", err)
	}
}

func TestErrorKeepsItsKind(t *testing.T) {
	kinds := map[Code]error{CodeInvalid: ErrInvalid, CodeUnavailable: ErrUnavailable, CodeNotFound: ErrNotFound}
	for code := range kinds {
		b, err := json.Marshal(Errorf(code, "no %s", "luck"))
		if err != nil {
			t.Fatal(err)
		}
		err = answer(Envelope{Version: Version, Verb: VerbError, Body: b}, VerbDone)
		for other, sentinel := range kinds {
			if errors.Is(err, sentinel) != (code == other) {
				t.Errorf("an error of code %s: errors.Is(%v) = %v", code, sentinel, code != other)
			}
		}
		if err.Error() != "no luck" {
			t.Errorf("message %q, want %q", err, "no luck")
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(frame(`{"version":1,"verb":"add"}` + "\n" + `{"containerID":"4f8c","interface":"eth0"}`))
	f.Add(frame(`{"version":1,"verb":"error"}` + "\n" + `{"code":"invalid","message":"no"}`))
	f.Add(frame(`{"version":2}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(bytes.NewReader(b), MaxRequest)
		if err != nil {
			return
		}
		if e.Version != Version {
			t.Errorf("version %d was accepted", e.Version)
		}
		var a Attachment
		_ = e.Decode(&a)
		_ = answer(e, VerbDone)
		again, err := encode(e)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		if _, err := decode(bytes.NewReader(again), MaxFrame); err != nil {
			t.Errorf("decode(encode(e)) = %v", err)
		}
	})
}
