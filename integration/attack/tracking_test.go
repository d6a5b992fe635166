package attack

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// Rules judge connections, so an intruder may try to have a connection that
// somebody else seems to have opened. Pods of mute may be called by anybody, and
// may call nobody.
func TestFalseConnection(t *testing.T) {
	t.Parallel()
	f := newField(t)
	// The pods' kernels answer what seems to come from outside.
	wage(t, f, falseConnections(), "mute")
}

// falseConnections make the pod's own kernel, or a process in it, "answer".
func falseConnections() []attack {
	raw := []int{intruder.NetRaw}
	// The pod's kernel answers an echo request that the world never sent.
	echo := func(p *pod, v6 bool, token []byte) []byte {
		from, to := lab.World4, p.v4
		if v6 {
			from, to = lab.World6, p.v6
			return packet(from, to, protoICMPv6, icmp6(from, to, 128, 0, []byte{1, 2, 0, 1}, token))
		}
		return packet(from, to, protoICMP, icmp4(8, 0, []byte{1, 2, 0, 1}, token))
	}
	var all []attack
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " over IPv4", true: " over IPv6"}[v6]
		all = append(all,
			attack{name: "answer to a question that nobody asked" + family, needs: raw, far: true,
				act: func(_ *field, p *pod, token []byte) intruder.Act {
					return acts(withHeader(p.own(v6), echo(p, v6, token)))
				}},
			attack{name: "answer to a frame on the loopback" + family, needs: raw, far: true,
				act: func(_ *field, p *pod, token []byte) intruder.Act {
					kind := etherOf(p.own(v6))
					return acts(intruder.Send{Domain: unix.AF_PACKET, Type: unix.SOCK_RAW, Device: "lo", Ether: kind,
						Packets: [][]byte{ether(make([]byte, 6), make([]byte, 6), kind, echo(p, v6, token))}})
				}})
	}
	return all
}

// A connection that was allowed leaves nothing behind that another one may use:
// not the pod's own, from the port at which it was called.
func TestPortReuse(t *testing.T) {
	t.Parallel()
	f := newField(t)
	prisoner := f.protected(t, "mute")
	eventually(t, func() error { return callBack(t, f.free, f.neighbour) })
	for range 3 {
		if err := callBack(t, prisoner, f.neighbour); err == nil {
			t.Error("the pod called back whom it may not call, from the port at which it was called")
		}
	}
}

// callBack lets the peer call the pod and hang up; then the pod calls the peer,
// from and to the same ports.
func callBack(t *testing.T, p, peer *pod) error {
	t.Helper()
	at := netip.AddrPortFrom(p.v4, 7000).String()
	l, err := listenAgain(p.Netns, at)
	must(t, err)
	out, err := peer.DialFrom(t.Context(), net.Dialer{Control: reuse, Timeout: settling}, "tcp4", at)
	must(t, err)
	in, err := l.Accept()
	must(t, err)
	back := out.LocalAddr().String()
	// Who hangs up first waits; the other end's port is free at once.
	must(t, out.Close())
	_, _ = in.Read(make([]byte, 1))
	must(t, in.Close())
	must(t, l.Close())
	answer, err := listenAgain(peer.Netns, back)
	must(t, err)
	defer func() { _ = answer.Close() }()
	local, err := net.ResolveTCPAddr("tcp4", at)
	must(t, err)
	c, err := p.DialFrom(t.Context(), net.Dialer{LocalAddr: local, Control: reuse, Timeout: 2 * silence}, "tcp4", back)
	if err != nil {
		return fmt.Errorf("call back %s: %w", back, err)
	}
	return c.Close()
}

// reuse lets a socket have an address that a closed one still waits at.
func reuse(_, _ string, c syscall.RawConn) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); err != nil {
		return err
	}
	return inner
}

func listenAgain(ns *lab.Netns, at string) (l net.Listener, err error) {
	return ns.Listen("tcp4", at) // net sets SO_REUSEADDR
}

// A connection that policy no longer allows doesn't get out as what an ICMP error
// is about.
func TestErrorOfRevokedConnection(t *testing.T) {
	t.Parallel()
	f := newField(t)
	must(t, f.WriteManifest("befriend.yaml", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: jail, name: befriend}
spec:
  podSelector: {}
  egress: [{ports: [{protocol: UDP, port: 7001}]}]
`))
	p := f.protected(t, "jail")
	from, to := netip.AddrPortFrom(p.v4, 7002), netip.AddrPortFrom(f.neighbour.v4, 7001)
	say := func(token []byte) error {
		s := plain(to, nil, token)
		s.Bind = from
		return p.act(t, acts(s), nil)
	}
	// The error quotes what the neighbour could have answered.
	complain := func(token []byte) error {
		quoted := join(make([]byte, 4), datagram(to, from, make([]byte, 64)))
		return p.act(t, acts(ofProtocol(to.Addr(), protoICMP, icmp4(3, 3, quoted, token))), []int{intruder.NetRaw})
	}
	for what, send := range map[string]func([]byte) error{"the flow": say, "an error about it": complain} {
		eventually(t, func() error {
			token := newToken()
			if err := cmp.Or(say(newToken()), send(token)); err != nil || !arrives(f.there, token) {
				return fmt.Errorf("%s does not pass while allowed: %w", what, cmp.Or(err, errSilence))
			}
			return nil
		})
	}
	must(t, f.RemoveManifest("befriend.yaml"))
	eventually(t, func() error { return f.without(t, p, "befriend") })
	token := newToken()
	if err := say(token); err == nil && arrives(f.here, token) {
		t.Error("the flow passes though revoked")
	}
	token = newToken()
	for range 3 {
		_ = complain(token)
	}
	time.Sleep(silence)
	if n := f.here.saw(token); n > 0 {
		t.Errorf("%d errors about a revoked flow left the pod, want none", n)
	}
}

// without returns an error unless the kernel holds the rules of a pod that a
// policy no longer selects.
func (f *field) without(t *testing.T, p *pod, policy string) error {
	t.Helper()
	out, err := f.Policyctl(t.Context(), "inspect", p.ID, "-o", "json")
	if err == nil && strings.Contains(out, policy) {
		err = fmt.Errorf("policy %s is still there: %s", policy, out)
	}
	return cmp.Or(err, f.inSync(t, p))
}

// What one pod sends makes no other pod's rules believe anything: connections
// are known to the pod that has them, not to the node.
func TestNeighbourPoisons(t *testing.T) {
	t.Parallel()
	f := newField(t)
	victim, poisoner := f.protected(t, "jail"), f.unprotected(t)
	token := newToken()
	from, to := netip.AddrPortFrom(f.neighbour.v4, 7001), netip.AddrPortFrom(victim.v4, 7002)
	// The poisoner sends what the victim would send, had it opened the flow.
	poison := frame{kind: unix.SOCK_RAW, told: etherIPv4}.to(f, ether(f.neighbour.mac, poisoner.mac, etherIPv4, datagram(to, from, token)))
	eventually(t, func() error {
		if err := poisoner.act(t, poison, []int{intruder.NetRaw}); err != nil || !arrives(f.there, token) {
			return fmt.Errorf("the poison does not arrive: %w", cmp.Or(err, errSilence))
		}
		return nil
	})
	// answered returns a function that reports whether the neighbour's answer
	// reaches a socket of the pod's.
	answered := func(p *pod) func() bool {
		at := netip.AddrPortFrom(p.v4, 7002)
		c, err := p.ListenPacket("udp", at.String())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		answer := plain(at, nil, token)
		answer.Bind = from
		return func() bool {
			must(t, f.neighbour.act(t, acts(answer), nil))
			must(t, c.SetReadDeadline(time.Now().Add(silence)))
			_, _, err := c.ReadFrom(make([]byte, 100))
			return err == nil
		}
	}
	free, guarded := answered(f.free), answered(victim)
	eventually(t, func() error {
		if !free() {
			return fmt.Errorf("nothing arrives without podwall either")
		}
		return nil
	})
	for range 3 {
		if guarded() {
			t.Error("the answer to a flow that the victim did not open arrived")
		}
	}
}

// A pod that fills its connection tracking hurts itself only: what is open goes
// on, what is new is dropped, others notice nothing.
func TestTrackingExhaustion(t *testing.T) {
	t.Parallel()
	f := newField(t)
	p, other, free := f.protected(t, "narrow"), f.protected(t, "narrow"), f.unprotected(t)
	at := netip.AddrPortFrom(f.neighbour.v4, dns)
	serve(t, f.neighbour.Netns, at)
	flow := func(p *pod) net.Conn {
		c, err := p.DialFrom(t.Context(), net.Dialer{}, "udp4", at.String())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	open := flow(p)
	for _, c := range []net.Conn{open, flow(other), flow(free)} {
		eventually(t, func() error { return echoed(c) })
	}
	// Younger flows make room for others.
	eventually(t, func() error { return cmp.Or(echoed(open), assured(t, p, open)) })
	// Without podwall no connection is tracked, so there the same does no harm.
	full := intruder.Act{Fill: maxTracked(t) + 1000}
	for _, p := range []*pod{p, free} {
		must(t, p.act(t, full, []int{intruder.NetAdmin}))
	}
	if err := echoed(flow(p)); err == nil {
		t.Error("a new flow is tracked in a full table")
	}
	eventually(t, func() error { return echoed(open) })
	for _, p := range []*pod{other, free} {
		eventually(t, func() error { return echoed(flow(p)) })
	}
	// Full is no reason to let anything through.
	token := newToken()
	_ = p.act(t, acts(plain(netip.AddrPortFrom(f.neighbour.v4, 8080), nil, token)), nil)
	if arrives(f.here, token) {
		t.Error("a denied packet left the pod whose table is full")
	}
}

// assured returns an error unless a pod's flow is one that its full table keeps.
func assured(t *testing.T, p *pod, c net.Conn) error {
	t.Helper()
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	must(t, err)
	out, err := p.Output(t.Context(), "conntrack", "-L", "-p", "udp", "--orig-port-src", strconv.Itoa(int(local.Port())))
	if err == nil && !strings.Contains(out, "[ASSURED]") {
		err = fmt.Errorf("the flow is not assured: %s", out)
	}
	return err
}

// maxTracked is how many connections a namespace may have.
func maxTracked(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	return n
}

// serve answers datagrams until the test ends.
func serve(t *testing.T, ns *lab.Netns, at netip.AddrPort) {
	t.Helper()
	s, err := lab.Serve(ns, []netip.Addr{at.Addr()}, at.Port())
	must(t, err)
	t.Cleanup(s.Close)
}

// echoed says something and waits for it to come back.
func echoed(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(2 * silence)); err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, 8)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 8))
	return err
}
