package netnstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An Outcome is what became of a probe.
type Outcome string

// The outcomes. Silent is what a firewall that drops looks like; Refused is
// what a port without a server, or a firewall that rejects, looks like.
const (
	Answered    Outcome = "answered"
	Refused     Outcome = "refused"
	Silent      Outcome = "silent"
	Unreachable Outcome = "unreachable"
)

// patience is how long a probe waits before it calls the far end silent. Within
// one machine an answer takes well under a millisecond.
const patience = 400 * time.Millisecond

// Probe sends something to addr from inside the namespace and says what came
// back. With a network of "tcp" (tcp4, tcp6) it opens a connection; with "udp" it
// sends one datagram from a new port and waits for an echo.
//
// What must succeed is to be retried (Eventually): the very first packet on a
// link may be lost while its neighbour is being resolved.
func (ns *NS) Probe(network, addr string) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := ns.Dial(ctx, network, addr)
	if err == nil {
		defer func() { _ = c.Close() }()
		if c.LocalAddr().Network() == "udp" {
			err = Echoed(c, patience)
		}
	}
	return outcome(err)
}

// Connect is Probe over TCP.
func (ns *NS) Connect(addr string) (Outcome, error) { return ns.Probe("tcp", addr) }

// outcome sorts the errors of the socket calls; those that say nothing about
// packets remain errors.
func outcome(err error) (Outcome, error) {
	var ne net.Error
	switch {
	case err == nil:
		return Answered, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused, nil
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return Unreachable, nil
	case errors.As(err, &ne) && ne.Timeout():
		return Silent, nil
	}
	return "", err
}

// Echoed sends a few bytes over c and waits for them to come back from an Echo.
func Echoed(c net.Conn, wait time.Duration) error {
	const text = "podwall"
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("echo of %q is %q", text, got)
	}
	return nil
}

// Echo serves addr inside the namespace until the test ends: every byte or
// datagram goes back to where it came from. It returns the address that it
// listens at, for an addr with port 0.
func (ns *NS) Echo(t testing.TB, network, addr string) net.Addr {
	t.Helper()
	if network[:3] == "udp" {
		c := ns.ListenPacket(t, network, addr)
		go echoPackets(c)
		return c.LocalAddr()
	}
	l := ns.Listen(t, network, addr)
	go echoStreams(t, l)
	return l.Addr()
}

// echoPackets ends when c is closed, by its test.
func echoPackets(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // others are ICMP errors about earlier echoes
			_, _ = c.WriteTo(buf[:n], from)
		}
	}
}

// echoStreams ends when l is closed, and closes its connections then.
func echoStreams(t testing.TB, l net.Listener) {
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
	})
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		mu.Lock()
		open = append(open, c)
		mu.Unlock()
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

// A Stream is a steady flow of numbered datagrams to an Echo, which counts what
// comes back.
type Stream struct {
	conn     net.Conn
	stop     chan struct{}
	done     sync.WaitGroup
	sent     atomic.Int64
	returned atomic.Int64
}

// StartStream sends a datagram from inside the namespace to the UDP Echo at addr
// every interval, until Stop.
func (ns *NS) StartStream(t testing.TB, addr string, interval time.Duration) *Stream {
	t.Helper()
	c, err := ns.Dial(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := widen(c.(*net.UDPConn)); err != nil {
		t.Fatalf("widen receive buffer: %v", err)
	}
	s := &Stream{conn: c, stop: make(chan struct{})}
	s.done.Go(func() { s.send(interval) })
	go s.receive()
	return s
}

// widen makes room for all that may arrive while a busy machine does something
// else: a datagram lost for want of room is not the firewall's doing.
func widen(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	return errors.Join(err, inner)
}

func (s *Stream) send(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			if _, err := fmt.Fprint(s.conn, s.sent.Add(1)); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}
}

func (s *Stream) receive() {
	buf := make([]byte, 64)
	for {
		_, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			s.returned.Add(1)
		}
	}
}

// Counts returns how many datagrams left and came back so far.
func (s *Stream) Counts() (sent, returned int64) { return s.sent.Load(), s.returned.Load() }

// Stop ends the stream, waits a moment for what is still on its way, and returns
// how many datagrams left and came back.
func (s *Stream) Stop() (sent, returned int64) {
	close(s.stop)
	s.done.Wait()
	for end := time.Now().Add(patience); time.Now().Before(end) && s.returned.Load() < s.sent.Load(); {
		time.Sleep(time.Millisecond)
	}
	_ = s.conn.Close()
	return s.Counts()
}
