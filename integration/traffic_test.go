package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// A conversation is one flow whose two ends both talk, each on its own, a word
// every millisecond.
type conversation struct {
	name   string
	opener ear // what the end that opened the flow hears
	other  ear
}

// An ear counts what an end hears.
type ear struct {
	conn  net.Conn
	heard atomic.Int64
	last  atomic.Int64 // when, in nanoseconds
}

// converse opens a flow to a port of a sandbox, "tcp" or "udp", and makes both
// ends talk until the test ends.
func converse(t testing.TB, network string, from, to *lab.Sandbox, port uint16) *conversation {
	t.Helper()
	c := &conversation{name: fmt.Sprintf("%s from %s to %s", network, from.Pod(), to.Pod())}
	at := netip.AddrPortFrom(to.Addr(false), port)
	if network == "tcp" {
		c.opener.conn, c.other.conn = openTCP(t, from, to, at)
	} else {
		c.opener.conn, c.other.conn = openUDP(t, from, to, at)
	}
	for _, e := range []*ear{&c.opener, &c.other} {
		t.Cleanup(func() { _ = e.conn.Close() })
		go e.listen()
		go e.talk()
	}
	eventually(t, c.alive)
	return c
}

func openTCP(t testing.TB, from, to *lab.Sandbox, at netip.AddrPort) (net.Conn, net.Conn) {
	t.Helper()
	l, err := to.Listen("tcp", at.String())
	must(t, err)
	defer func() { _ = l.Close() }()
	opener, err := from.Dial(t.Context(), "tcp", at.String())
	must(t, err)
	other, err := l.Accept()
	must(t, err)
	return opener, other
}

// openUDP makes two sockets that are connected to each other.
func openUDP(t testing.TB, from, to *lab.Sandbox, at netip.AddrPort) (opener, other net.Conn) {
	t.Helper()
	opener, err := from.Dial(t.Context(), "udp", at.String())
	must(t, err)
	must(t, to.Do(func() error {
		other, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(at), opener.LocalAddr().(*net.UDPAddr))
		return err
	}))
	// The opener must be the first to be heard, or the flow would be the other's.
	_, err = opener.Write([]byte("first"))
	must(t, err)
	must(t, other.SetReadDeadline(time.Now().Add(settling)))
	_, err = other.Read(make([]byte, 8))
	must(t, err)
	must(t, other.SetReadDeadline(time.Time{}))
	return opener, other
}

// listen ends when the connection is closed.
func (e *ear) listen() {
	b := make([]byte, 64<<10)
	for {
		n, err := e.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // an ICMP error about what was said before
			continue
		}
		e.last.Store(time.Now().UnixNano())
		e.heard.Add(int64(n))
	}
}

// talk ends when the connection is closed. A flow that is cut off takes no more
// once its buffer is full.
func (e *ear) talk() {
	for {
		_ = e.conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if _, err := e.conn.Write([]byte("word")); errors.Is(err, net.ErrClosed) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// alive returns an error unless both ends hear something now.
func (c *conversation) alive() error {
	a, b := c.opener.heard.Load(), c.other.heard.Load()
	time.Sleep(20 * time.Millisecond)
	if c.opener.heard.Load() == a || c.other.heard.Load() == b {
		return fmt.Errorf("%s: one end hears nothing", c.name)
	}
	return nil
}

// silent returns an error if either end hears anything for a while.
func (c *conversation) silent(while time.Duration) error {
	a, b := c.opener.heard.Load(), c.other.heard.Load()
	time.Sleep(while)
	if x, y := c.opener.heard.Load()-a, c.other.heard.Load()-b; x != 0 || y != 0 {
		return fmt.Errorf("%s: in %s the ends heard %d and %d bytes, want none", c.name, while, x, y)
	}
	return nil
}

// apart is how long one end heard something after the other no longer did.
func (c *conversation) apart() time.Duration {
	return time.Duration(c.opener.last.Load() - c.other.last.Load()).Abs()
}

// A sink answers datagrams at one address, and counts them.
type sink struct {
	conn net.PacketConn
	got  atomic.Int64
}

func openSink(t testing.TB, ns *lab.Netns, at netip.AddrPort) *sink {
	t.Helper()
	c, err := ns.ListenPacket("udp", at.String())
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, widen(c.(*net.UDPConn)))
	s := &sink{conn: c}
	go s.serve()
	return s
}

// serve ends when the socket is closed.
func (s *sink) serve() {
	b := make([]byte, 64)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else an ICMP error about an earlier answer
			s.got.Add(1)
			_, _ = s.conn.WriteTo(b[:n], from) // an answer that is lost will be missed
		}
	}
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
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	})
	return errors.Join(err, inner)
}

// A barrage sends datagrams to a sink at a steady rate, most from one socket,
// every tenth from a new one, and counts what comes back.
type barrage struct {
	from     *lab.Netns
	to       netip.AddrPort
	sent     int64 // valid after end
	answered atomic.Int64
	stop     chan struct{}
	done     sync.WaitGroup
	open     sync.WaitGroup // sockets that may still hear something
}

// interval is the time between a barrage's datagrams.
const interval = 2 * time.Millisecond

// bombard sends until end.
func bombard(t testing.TB, from *lab.Netns, to netip.AddrPort) *barrage {
	b := &barrage{from: from, to: to, stop: make(chan struct{})}
	b.done.Go(func() {
		if err := b.send(t); err != nil {
			t.Errorf("send to %s: %v", to, err)
		}
	})
	return b
}

func (b *barrage) send(t testing.TB) error {
	steady, err := b.socket(t)
	if err != nil {
		return err
	}
	defer func() { _ = steady.SetReadDeadline(time.Now().Add(linger)) }()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ; ; b.sent++ {
		select {
		case <-b.stop:
			return nil
		case <-tick.C:
		}
		c := steady
		if b.sent%10 == 0 {
			if c, err = b.socket(t); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(linger))
		}
		// A datagram that the own firewall drops is an error here, and lost.
		_, _ = c.Write([]byte("datagram"))
	}
}

// linger is how long a socket waits for its last answer.
const linger = 3 * time.Second

// socket opens a socket and counts what it hears until its read deadline.
func (b *barrage) socket(t testing.TB) (net.Conn, error) {
	c, err := b.from.Dial(t.Context(), "udp", b.to.String())
	if err != nil {
		return nil, err
	}
	if err := widen(c.(*net.UDPConn)); err != nil {
		return nil, err
	}
	b.open.Go(func() {
		defer func() { _ = c.Close() }()
		buf := make([]byte, 64)
		for {
			_, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				b.answered.Add(1)
			}
		}
	})
	return c, nil
}

// halt stops the barrage.
func (b *barrage) halt() { close(b.stop) }

// end waits, after halt, for the last answers. It returns how many datagrams were
// sent and how many answers came.
func (b *barrage) end() (sent, answered int64) {
	b.done.Wait()
	b.open.Wait()
	return b.sent, b.answered.Load()
}
