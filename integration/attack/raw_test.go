package attack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// Packets that the IP stack does see: whatever socket, option or shape they come
// in, a pod that may speak TCP and DNS to everybody says nothing else.
func TestRawSocket(t *testing.T) {
	t.Parallel()
	f := newField(t)
	// The node believes source routes, as routers of old did.
	must(t, f.set(t, "net.ipv4.conf.all.accept_source_route=1", "net.ipv4.conf.cni0.accept_source_route=1"))
	wage(t, f, rawAttacks(), "narrow", "jail")
}

// set sets sysctls of the node.
func (f *field) set(t *testing.T, settings ...string) error {
	_, err := f.Output(t.Context(), "sysctl", append([]string{"-qw"}, settings...)...)
	return err
}

// The far ends of a raw attack.
func (f *field) world(v6 bool) netip.Addr {
	if v6 {
		return lab.World6
	}
	return lab.World4
}

// own is the pod's address of a family.
func (p *pod) own(v6 bool) netip.Addr {
	if v6 {
		return p.v6
	}
	return p.v4
}

// withHeader sends packets whose IP headers are the intruder's.
func withHeader(to netip.Addr, packets ...[]byte) intruder.Send {
	if to.Is4() { // IPPROTO_RAW implies IP_HDRINCL
		return intruder.Send{Domain: unix.AF_INET, Type: unix.SOCK_RAW, Protocol: unix.IPPROTO_RAW, To: netip.AddrPortFrom(to, 0), Packets: packets}
	}
	return intruder.Send{Domain: unix.AF_INET6, Type: unix.SOCK_RAW, Protocol: unix.IPPROTO_RAW, To: netip.AddrPortFrom(to, 0), Packets: packets,
		Options: []intruder.Option{{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_HDRINCL, Int: 1}}}
}

// ofProtocol sends messages of an IP protocol, below the kernel's header.
func ofProtocol(to netip.Addr, proto int, messages ...[]byte) intruder.Send {
	return intruder.Send{Domain: domain(to), Type: unix.SOCK_RAW, Protocol: proto, To: netip.AddrPortFrom(to, 0), Packets: messages}
}

// plain sends datagrams from an ordinary socket.
func plain(to netip.AddrPort, options []intruder.Option, data ...[]byte) intruder.Send {
	return intruder.Send{Domain: domain(to.Addr()), Type: unix.SOCK_DGRAM, To: to, Options: options, Packets: data}
}

func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func acts(sends ...intruder.Send) intruder.Act { return intruder.Act{Sends: sends} }

// rawAttacks are those of raw sockets and of options of ordinary ones.
func rawAttacks() []attack {
	var all []attack
	// raw is an attack on the world that needs CAP_NET_RAW.
	raw := func(name string, act func(p *pod, to netip.Addr, token []byte) intruder.Act, v6 bool) {
		all = append(all, attack{name: name, needs: []int{intruder.NetRaw}, far: true,
			act: func(f *field, p *pod, token []byte) intruder.Act { return act(p, f.world(v6), token) }})
	}
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " over IPv4", true: " over IPv6"}[v6]
		raw("IP header of one's own"+family, func(p *pod, to netip.Addr, token []byte) intruder.Act {
			return acts(withHeader(to, datagram(netip.AddrPortFrom(p.own(v6), 4444), netip.AddrPortFrom(to, 8080), token)))
		}, v6)
		raw("raw UDP"+family, func(p *pod, to netip.Addr, token []byte) intruder.Act {
			return acts(ofProtocol(to, protoUDP, udp(netip.AddrPortFrom(p.own(v6), 4444), netip.AddrPortFrom(to, 8080), token)))
		}, v6)
		raw("unknown protocol"+family, func(_ *pod, to netip.Addr, token []byte) intruder.Act {
			return acts(ofProtocol(to, protoLab, token))
		}, v6)
		raw("tunnel in GRE"+family, func(p *pod, to netip.Addr, token []byte) intruder.Act {
			return acts(ofProtocol(to, protoGRE, join([]byte{0, 0}, be16(etherOf(to)), datagram(netip.AddrPortFrom(p.own(v6), 53), netip.AddrPortFrom(to, 53), token))))
		}, v6)
		raw("tunnel in IP"+family, func(p *pod, to netip.Addr, token []byte) intruder.Act {
			return acts(ofProtocol(to, protoIPinIP, packet4(header{from: lab.World4, to: lab.Uplink4, proto: protoTCP}, token)))
		}, v6)
	}
	all = append(all, echoAttacks()...)
	all = append(all, optionAttacks()...)
	all = append(all, fragmentAttacks()...)
	return append(all, groupAttacks()...)
}

// echoAttacks carry data in what networks need to work.
func echoAttacks() []attack {
	raw := []int{intruder.NetRaw}
	v6 := func(name string, kind byte, body ...byte) attack {
		return attack{name: name, needs: raw, far: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			return acts(intruder.Send{Domain: unix.AF_INET6, Type: unix.SOCK_RAW, Protocol: protoICMPv6, To: netip.AddrPortFrom(lab.World6, 0),
				Options: []intruder.Option{{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_UNICAST_HOPS, Int: 255}},
				Packets: [][]byte{icmp6(p.v6, lab.World6, kind, 0, body, token)}})
		}}
	}
	v4 := func(name string, kind, code byte, body func(p *pod) []byte) attack {
		return attack{name: name, needs: raw, far: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			return acts(ofProtocol(lab.World4, protoICMP, icmp4(kind, code, body(p), token)))
		}}
	}
	quoted := func(p *pod) []byte { // a packet that was never received
		return join(make([]byte, 4), datagram(netip.AddrPortFrom(lab.World4, 53), netip.AddrPortFrom(p.v4, 53), make([]byte, 64)))
	}
	target := lab.World6.As16()
	return []attack{
		v4("data in an ICMP echo", 8, 0, func(*pod) []byte { return []byte{1, 2, 0, 1} }),
		v4("data in an ICMP echo reply", 0, 0, func(*pod) []byte { return []byte{1, 2, 0, 1} }),
		v4("data in an ICMP error", 3, 3, quoted),
		v4("data in an ICMP redirect", 5, 1, quoted),
		v6("data in an ICMPv6 echo", 128, 1, 2, 0, 1),
		v6("data in an ICMPv6 error", 1, make([]byte, 4)...),
		v6("data in a neighbour solicitation", 135, append(make([]byte, 4), target[:]...)...),
		v6("data in a neighbour advertisement", 136, append(make([]byte, 4), target[:]...)...),
		v6("data in a router solicitation", 133, make([]byte, 4)...),
		v6("data in a router advertisement", 134, make([]byte, 12)...),
		v6("data in an ICMPv6 redirect", 137, make([]byte, 36)...),
		v6("data in a listener query", 130, make([]byte, 20)...),
		v6("data in a listener report", 143, 0, 0, 0, 0),
		{name: "data from a ping socket", far: true, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			return acts(intruder.Send{Domain: unix.AF_INET, Type: unix.SOCK_DGRAM, Protocol: protoICMP,
				To: netip.AddrPortFrom(lab.World4, 0), Packets: [][]byte{icmp4(8, 0, []byte{0, 0, 0, 1}, token)}})
		}},
	}
}

// optionAttacks are socket options and IP options.
func optionAttacks() []attack {
	raw := []int{intruder.NetRaw}
	at := netip.AddrPortFrom(lab.World4, 8080)
	// option is an attack of an ordinary socket with one option.
	option := func(name string, needs []int, o intruder.Option) attack {
		return attack{name: name, needs: needs, far: true, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			return acts(plain(at, []intruder.Option{o}, token))
		}}
	}
	world := lab.World4.As4()
	route := append([]byte{131, 7, 4}, append(world[:], 0)...) // loose source route: on to the world
	return []attack{
		option("SO_MARK with the first epoch", raw, intruder.Option{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Int: 0x0001_0000}),
		option("SO_MARK with every bit", raw, intruder.Option{Level: unix.SOL_SOCKET, Name: unix.SO_MARK, Int: -1}),
		option("SO_BINDTODEVICE", raw, intruder.Option{Level: unix.SOL_SOCKET, Name: unix.SO_BINDTODEVICE, Bytes: []byte("eth0\x00")}),
		option("SO_PRIORITY", nil, intruder.Option{Level: unix.SOL_SOCKET, Name: unix.SO_PRIORITY, Int: 6}),
		option("IP_TRANSPARENT", raw, intruder.Option{Level: unix.IPPROTO_IP, Name: unix.IP_TRANSPARENT, Int: 1}),
		option("record route", raw, intruder.Option{Level: unix.IPPROTO_IP, Name: unix.IP_OPTIONS, Bytes: append([]byte{7, 39, 4}, make([]byte, 37)...)}),
		option("unknown IP option", raw, intruder.Option{Level: unix.IPPROTO_IP, Name: unix.IP_OPTIONS, Bytes: []byte{0x9e, 4, 0, 0}}),
		// The pod may always speak to its own node, which is a router.
		{name: "loose source route through the node", needs: raw, far: true, toNode: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			from, to := netip.AddrPortFrom(p.v4, 4444), netip.AddrPortFrom(lab.Gateway4, 8080)
			return acts(withHeader(lab.Gateway4, packet4(header{from: p.v4, to: lab.Gateway4, proto: protoUDP, options: route}, udp(from, to, token))))
		}},
		{name: "loose source route by socket option", needs: raw, far: true, toNode: true, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			via := lab.Gateway4.As4()
			o := intruder.Option{Level: unix.IPPROTO_IP, Name: unix.IP_OPTIONS, Bytes: append([]byte{131, 7, 4}, append(via[:], 0)...)}
			return acts(plain(at, []intruder.Option{o}, token))
		}},
	}
}

// fragmentAttacks hide the port in a second fragment, or change it there.
func fragmentAttacks() []attack {
	noDefrag := intruder.Option{Level: unix.IPPROTO_IP, Name: 22, Int: 1} // IP_NODEFRAG
	// split is a UDP datagram to a port, in fragments of which the first has n bytes.
	split := func(p *pod, port uint16, id uint16, n int, token []byte) [2][]byte {
		b := udp(netip.AddrPortFrom(p.v4, 4444), netip.AddrPortFrom(lab.World4, port), join(make([]byte, 16), token))
		return [2][]byte{
			packet4(header{from: p.v4, to: lab.World4, proto: protoUDP, id: id, fragment: moreFragments}, b[:n]),
			packet4(header{from: p.v4, to: lab.World4, proto: protoUDP, id: id, fragment: uint16(n / 8)}, b[n:]),
		}
	}
	fragments := func(name string, options []intruder.Option, build func(p *pod, token []byte) [][]byte) attack {
		return attack{name: name, needs: []int{intruder.NetRaw}, far: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			s := withHeader(lab.World4, build(p, token)...)
			s.Options = append(s.Options, options...)
			return acts(s)
		}}
	}
	id := func(token []byte) uint16 { return binary.BigEndian.Uint16(token[len(token)-2:]) }
	whole := func(p *pod, token []byte) [][]byte { x := split(p, 8080, id(token), 16, token); return x[:] }
	tiny := func(p *pod, token []byte) [][]byte { x := split(p, 8080, id(token), 8, token); return x[:] }
	return []attack{
		fragments("fragments", nil, whole),
		fragments("tiny first fragment", nil, tiny),
		fragments("fragments in the wrong order", nil, func(p *pod, token []byte) [][]byte {
			x := split(p, 8080, id(token), 16, token)
			return [][]byte{x[1], x[0]}
		}),
		fragments("fragments not to be reassembled", []intruder.Option{noDefrag}, whole),
		fragments("tiny fragments not to be reassembled", []intruder.Option{noDefrag}, tiny),
		// The first fragment says port 53, which is allowed; another one says it again, with another port.
		fragments("overlapping fragments not to be reassembled", []intruder.Option{noDefrag}, func(p *pod, token []byte) [][]byte {
			allowed, not := split(p, 53, id(token), 16, make([]byte, len(token))), split(p, 8080, id(token), 16, token)
			return [][]byte{allowed[0], not[0], not[1]}
		}),
		{name: "fragments of IPv6", needs: []int{intruder.NetRaw}, far: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			b := udp(netip.AddrPortFrom(p.v6, 4444), netip.AddrPortFrom(lab.World6, 8080), join(make([]byte, 16), token))
			part := func(offset uint16, b []byte) []byte {
				return packet6(p.v6, lab.World6, protoFragment, join([]byte{protoUDP, 0}, be16(offset), token[len(token)-4:], b))
			}
			return acts(withHeader(lab.World6, part(1, b[:16]), part(16, b[16:])))
		}},
		{name: "IPv6 destination options", needs: []int{intruder.NetRaw}, far: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			b := udp(netip.AddrPortFrom(p.v6, 4444), netip.AddrPortFrom(lab.World6, 8080), token)
			return acts(withHeader(lab.World6, packet6(p.v6, lab.World6, 60, join([]byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, b))))
		}},
	}
}

// groupAttacks go to many at once: to the link, where the neighbour listens.
func groupAttacks() []attack {
	to := func(name, addr string, options ...intruder.Option) attack {
		return attack{name: name, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			return acts(plain(netip.MustParseAddrPort(addr), options, token))
		}}
	}
	broadcast := intruder.Option{Level: unix.SOL_SOCKET, Name: unix.SO_BROADCAST, Int: 1}
	return []attack{
		to("multicast", "224.0.0.251:5353"),
		to("multicast over IPv6", "[ff02::fb]:5353"),
		to("broadcast on the link", "255.255.255.255:8080", broadcast),
		to("broadcast to the subnet", "10.1.0.255:8080", broadcast),
	}
}
