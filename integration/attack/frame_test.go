package attack

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// The types of an Ethernet frame that matter here.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd
	etherQinQ = 0x88a8
	etherLab  = 0x88b5 // for local experiments
	etherLLDP = 0x88cc
)

// The protocols of an IP packet.
const (
	protoICMP     = 1
	protoIPinIP   = 4
	protoTCP      = 6
	protoUDP      = 17
	protoGRE      = 47
	protoFragment = 44
	protoICMPv6   = 58
	protoLab      = 253 // for experiments
)

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// join is its arguments in one piece.
func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// checksum is the internet's.
func checksum(parts ...[]byte) uint16 {
	b := join(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ether is a frame.
func ether(to, from []byte, kind uint16, payload []byte) []byte {
	return join(to, from, be16(kind), payload)
}

// A header is what matters of an IPv4 header.
type header struct {
	from, to netip.Addr
	proto    byte
	options  []byte // a multiple of 4
	fragment uint16 // flags and offset in units of 8
	id       uint16
}

// moreFragments is the flag of all fragments but the last.
const moreFragments = 0x2000

// packet4 is an IPv4 packet.
func packet4(h header, payload []byte) []byte {
	size := 20 + len(h.options)
	b := join([]byte{0x40 | byte(size/4), 0}, be16(uint16(size+len(payload))), be16(h.id), be16(h.fragment),
		[]byte{64, h.proto, 0, 0}, h.from.AsSlice(), h.to.AsSlice(), h.options)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// packet6 is an IPv6 packet with the hop limit of neighbour discovery.
func packet6(from, to netip.Addr, next byte, payload []byte) []byte {
	return join([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{next, 255}, from.AsSlice(), to.AsSlice(), payload)
}

// packet is an IP packet of the family of its addresses.
func packet(from, to netip.Addr, proto byte, payload []byte) []byte {
	if from.Is4() {
		return packet4(header{from: from, to: to, proto: proto}, payload)
	}
	return packet6(from, to, proto, payload)
}

// etherOf is the type of the frame that carries packets of a family.
func etherOf(a netip.Addr) uint16 {
	if a.Is4() {
		return etherIPv4
	}
	return etherIPv6
}

// pseudo is what UDP and ICMPv6 checksums cover before the message.
func pseudo(from, to netip.Addr, proto byte, length int) []byte {
	return join(from.AsSlice(), to.AsSlice(), []byte{0, proto}, be16(uint16(length)))
}

// udp is a datagram, its checksum for these addresses.
func udp(from, to netip.AddrPort, data []byte) []byte {
	size := 8 + len(data)
	b := join(be16(from.Port()), be16(to.Port()), be16(uint16(size)), []byte{0, 0}, data)
	binary.BigEndian.PutUint16(b[6:], checksum(pseudo(from.Addr(), to.Addr(), protoUDP, size), b))
	return b
}

// datagram is an IP packet with a UDP datagram.
func datagram(from, to netip.AddrPort, data []byte) []byte {
	return packet(from.Addr(), to.Addr(), protoUDP, udp(from, to, data))
}

// icmp4 is an ICMP message; rest is what follows the checksum.
func icmp4(kind, code byte, rest ...[]byte) []byte {
	b := append([]byte{kind, code, 0, 0}, join(rest...)...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// icmp6 is an ICMPv6 message.
func icmp6(from, to netip.Addr, kind, code byte, rest ...[]byte) []byte {
	b := append([]byte{kind, code, 0, 0}, join(rest...)...)
	binary.BigEndian.PutUint16(b[2:], checksum(pseudo(from, to, protoICMPv6, len(b)), b))
	return b
}

// arp is an ARP request (1) or reply (2).
func arp(op byte, mac []byte, from netip.Addr, toMAC []byte, to netip.Addr) []byte {
	return join([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac, from.AsSlice(), toMAC, to.AsSlice())
}

// advertisement is a neighbour advertisement that says where target is.
func advertisement(from, to, target netip.Addr, mac []byte) []byte {
	const override = 0x20
	return icmp6(from, to, 136, 0, []byte{override, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac)
}
