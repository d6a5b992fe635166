package neighbours

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// A proxy is what a mesh puts into a pod: a process of its own user that accepts
// what rules redirect to it, and dials on to where that was going.
type proxy struct {
	ns  *lab.Netns
	uid int
	// inbound and outbound are the ports that rules redirect to, dns the one for
	// queries, which are forwarded to resolver's address of the same family.
	inbound, outbound, dns uint16
	resolver               []netip.Addr
	// onward are the addresses from which it dials the pod itself. Without them
	// the kernel chooses.
	onward []netip.Addr
	// transparent proxies are reached by TPROXY, and dial the pod itself from the
	// client's address, with mark.
	transparent bool
	mark        int
}

// patience is how long the proxy tries to reach the far end. It is longer than
// whoever waits behind it.
const patience = time.Second

// as calls fn in the namespace as the proxy's user. The thread ends with it.
func (p *proxy) as(fn func() error) error {
	return p.ns.Do(func() error {
		if _, err := unix.SetfsuidRetUid(p.uid); err != nil {
			return err
		}
		return fn()
	})
}

// start makes p accept, until the test ends.
func (p *proxy) start(t testing.TB) {
	t.Helper()
	for _, family := range []struct {
		suffix        string
		any, loopback netip.Addr
	}{{"4", netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1")}, {"6", netip.IPv6Unspecified(), netip.IPv6Loopback()}} {
		p.accept(t, "tcp"+family.suffix, netip.AddrPortFrom(family.any, p.outbound).String(), p.leaving)
		p.accept(t, "tcp"+family.suffix, netip.AddrPortFrom(family.any, p.inbound).String(), p.arriving)
		if p.dns != 0 { // answers must come from where the rules redirect to
			p.relay(t, "udp"+family.suffix, netip.AddrPortFrom(family.loopback, p.dns).String())
		}
	}
}

// accept listens, and hands each connection to serve.
func (p *proxy) accept(t testing.TB, network, at string, serve func(*net.TCPConn)) {
	t.Helper()
	var lc net.ListenConfig
	if p.transparent {
		lc.Control = p.control
	}
	var l net.Listener
	must(t, p.as(func() (err error) {
		l, err = lc.Listen(t.Context(), network, at)
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
}

// control makes a socket transparent.
func (p *proxy) control(network, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}), err)
}

// leaving serves a connection of the pod's own.
func (p *proxy) leaving(c *net.TCPConn) {
	to, err := originalDestination(c)
	if err != nil {
		_ = c.Close()
		return
	}
	p.join(c, net.Dialer{}, to)
}

// arriving serves a connection from outside. One that nobody redirected is for
// the proxy itself, which answers as every server here does.
func (p *proxy) arriving(c *net.TCPConn) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	to, err := local, error(nil)
	if !p.transparent {
		to, err = originalDestination(c)
	}
	switch {
	case err != nil:
		_ = c.Close()
	case to.Port() == p.inbound:
		_, _ = io.Copy(c, c) // ends with the connection, however it ends
		_ = c.Close()
	default:
		p.join(c, p.inward(c, to.Addr()), to)
	}
}

// inward is how the proxy dials the pod itself on behalf of c.
func (p *proxy) inward(c *net.TCPConn, to netip.Addr) net.Dialer {
	if p.transparent {
		return net.Dialer{
			LocalAddr: &net.TCPAddr{IP: c.RemoteAddr().(*net.TCPAddr).IP},
			Control: func(network, address string, raw syscall.RawConn) error {
				var err error
				return errors.Join(p.control(network, address, raw), raw.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, p.mark)
				}), err)
			},
		}
	}
	if i := slices.IndexFunc(p.onward, func(a netip.Addr) bool { return a.Is4() == to.Is4() }); i >= 0 {
		return net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.onward[i], 0))}
	}
	return net.Dialer{}
}

// join dials to as the proxy's user, and passes on what either end says until
// one has nothing more to say.
func (p *proxy) join(c *net.TCPConn, d net.Dialer, to netip.AddrPort) {
	defer func() { _ = c.Close() }()
	d.Timeout = patience
	var far net.Conn
	if p.as(func() (err error) {
		far, err = d.DialContext(context.Background(), "tcp", to.String())
		return err
	}) != nil {
		return // the near end sees its connection close
	}
	defer func() { _ = far.Close() }()
	go func() {
		_, _ = io.Copy(far, c)
		_ = far.Close()
	}()
	_, _ = io.Copy(c, far)
}

// relay forwards datagrams to the resolver and its answers back.
func (p *proxy) relay(t testing.TB, network, at string) {
	t.Helper()
	var in net.PacketConn
	must(t, p.as(func() (err error) {
		in, err = net.ListenPacket(network, at)
		return err
	}))
	t.Cleanup(func() { _ = in.Close() })
	i := slices.IndexFunc(p.resolver, func(a netip.Addr) bool { return a.Is4() == strings.HasSuffix(network, "4") })
	upstream := netip.AddrPortFrom(p.resolver[i], 53).String()
	go func() { // ends when in is closed
		b := make([]byte, 1500)
		for {
			n, from, err := in.ReadFrom(b)
			if err != nil {
				return
			}
			go p.ask(network, upstream, slices.Clone(b[:n]), func(answer []byte) { _, _ = in.WriteTo(answer, from) })
		}
	}()
}

// ask sends one query and calls back with its answer, if there is one.
func (p *proxy) ask(network, upstream string, query []byte, answer func([]byte)) {
	var c net.Conn
	if p.as(func() (err error) {
		c, err = net.Dial(network, upstream)
		return err
	}) != nil {
		return
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(query); err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(patience)) // fails only on a closed socket, as does what follows
	b := make([]byte, 1500)
	if n, err := c.Read(b); err == nil {
		answer(b[:n])
	}
}

// originalDestination is where c was going before a rule redirected it; where it
// is, if none did.
func originalDestination(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	v6 := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().Is6()
	return to, errors.Join(raw.Control(func(fd uintptr) {
		if v6 {
			var sa *unix.IPv6MTUInfo // begins with a sockaddr_in6
			if sa, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
				to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr.Addr), swap(sa.Addr.Port))
			}
			return
		}
		var sa *unix.IPv6Mreq // holds a sockaddr_in: family, port, address
		if sa, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
			b := sa.Multiaddr
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	}), err)
}

// swap turns a port in network order, read as a native integer, into its number.
func swap(port uint16) uint16 { return port<<8 | port>>8 }
