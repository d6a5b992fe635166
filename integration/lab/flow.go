package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// A Flow is something that one end may send to another, where a Server answers.
type Flow struct {
	From   *Netns
	Source netip.Addr // of the sender; the zero Addr leaves it to the kernel
	Proto  string     // "tcp", "udp" or "icmp"
	To     netip.AddrPort
}

// Try sends, and returns nil once an answer has come back. With UDP and ICMP it
// sends again and again until then.
func (f Flow) Try(ctx context.Context) error {
	if f.Proto == "icmp" {
		return f.ping(ctx)
	}
	c, err := f.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if d, ok := ctx.Deadline(); ok && f.Proto == "tcp" {
		if err := c.SetDeadline(d); err != nil {
			return err
		}
	}
	for {
		err := echoed(c)
		if err == nil || f.Proto == "tcp" || ctx.Err() != nil {
			return err
		}
		time.Sleep(resend / 10) // a refusal comes back at once
	}
}

// Dial opens the flow. A UDP flow is open without any packet.
func (f Flow) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if f.Source.IsValid() {
		if f.Proto == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.Source, 0))
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Source, 0))
		}
	}
	return f.From.DialFrom(ctx, d, f.Proto, f.To.String())
}

// resend is how long UDP and ICMP wait for an answer before they ask again.
const resend = 50 * time.Millisecond

// echoed sends a word and waits until it comes back: with UDP for a moment, with
// TCP until c's deadline.
func echoed(c net.Conn) error {
	const word = "podwall"
	if _, udp := c.(*net.UDPConn); udp {
		if err := c.SetDeadline(time.Now().Add(resend)); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != word {
		return fmt.Errorf("echo of %q is %q", word, got)
	}
	return nil
}

// A Server answers on ports of a namespace: what comes in goes back.
type Server struct {
	mu      sync.Mutex
	closers map[io.Closer]bool
}

// Serve answers at all the given ports of the addresses, over TCP and UDP.
func Serve(ns *Netns, addrs []netip.Addr, ports ...uint16) (*Server, error) {
	s := &Server{closers: map[io.Closer]bool{}}
	for _, a := range addrs {
		for _, p := range ports {
			if err := s.serve(ns, netip.AddrPortFrom(a, p).String()); err != nil {
				s.Close()
				return nil, err
			}
		}
	}
	return s, nil
}

func (s *Server) serve(ns *Netns, at string) error {
	l, err := ns.Listen("tcp", at)
	if err != nil {
		return err
	}
	s.keep(l)
	go s.accept(l)
	c, err := ns.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	s.keep(c)
	go reflect(c)
	return nil
}

// accept ends when l is closed.
func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.keep(c)
		go func() {
			_, _ = io.Copy(c, c) // ends with the connection, however it ends
			s.forget(c)
		}()
	}
}

// reflect ends when c is closed.
func reflect(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else an ICMP error about an earlier answer
			_, _ = c.WriteTo(buf[:n], from)
		}
	}
}

func (s *Server) keep(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closers == nil {
		_ = c.Close()
		return
	}
	s.closers[c] = true
}

func (s *Server) forget(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closers, c)
	_ = c.Close()
}

// Close ends the server and its connections.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.closers {
		_ = c.Close()
	}
	s.closers = nil
}

// An Expectation is what should become of a flow.
type Expectation struct {
	Flow
	Name string
	Pass bool
}

// round is how long a flow may take to be answered. Within one machine that is
// well under a millisecond; what is wrongly found silent is tried again.
const round = 300 * time.Millisecond

// Passing tries all flows at the same time and says which were answered. It
// always takes the time that takes: flows cut short would seem to be denied.
func Passing(ctx context.Context, flows []Expectation) []bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), round)
	defer cancel()
	passed := make([]bool, len(flows))
	var all sync.WaitGroup
	for i, f := range flows {
		all.Go(func() { passed[i] = f.Try(ctx) == nil })
	}
	all.Wait()
	return passed
}

// Settle tries all flows again and again until each is as expected at the same
// time. If that does not happen before ctx ends, the error names those that
// were not, the last time.
func Settle(ctx context.Context, flows []Expectation) error {
	for {
		var wrong []string
		for i, passed := range Passing(ctx, flows) {
			if passed != flows[i].Pass {
				wrong = append(wrong, fmt.Sprintf("%s: %s, want %s", flows[i].Name, fate(passed), fate(flows[i].Pass)))
			}
		}
		if len(wrong) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("flows are not as they should be:\n\t%s", strings.Join(wrong, "\n\t"))
		}
	}
}

func fate(passed bool) string {
	if passed {
		return "allowed"
	}
	return "denied"
}
