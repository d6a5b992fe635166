package events

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A packet is what the beginning of one says, as far as it goes.
type packet struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	protocol         string
	proto            ruleset.Proto
	flags            string
	icmp             *api.ICMP
	length           int
}

// Frames' types, and what has no number as an IP protocol.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

// decodeFrame reads a frame from its link header on.
func decodeFrame(b []byte) packet {
	const header, typeAt = 14, 12
	if len(b) < header {
		return packet{protocol: "short frame", length: len(b)}
	}
	kind, body := binary.BigEndian.Uint16(b[typeAt:]), b[header:]
	switch kind {
	case etherIPv4, etherIPv6:
		return decode(body)
	case etherARP:
		return decodeARP(body)
	}
	return packet{protocol: fmt.Sprintf("ethertype 0x%04x", kind), length: len(body)}
}

// decodeARP reads an ARP packet for IPv4: its ends are the sender and the
// target, as it says.
func decodeARP(b []byte) packet {
	p := packet{protocol: "ARP", length: len(b)}
	const senderAt, targetAt, whole = 14, 24, 28
	if len(b) >= whole {
		p.src, _ = netip.AddrFromSlice(b[senderAt : senderAt+4])
		p.dst, _ = netip.AddrFromSlice(b[targetAt : targetAt+4])
	}
	return p
}

// decode reads a packet from its IP header on.
func decode(b []byte) packet {
	if len(b) == 0 {
		return packet{protocol: "nothing"}
	}
	switch b[0] >> 4 {
	case 4:
		return decode4(b)
	case 6:
		return decode6(b)
	}
	return packet{protocol: fmt.Sprintf("IP version %d", b[0]>>4), length: len(b)}
}

func decode4(b []byte) packet {
	const header = 20
	if len(b) < header {
		return packet{protocol: "short IPv4", length: len(b)}
	}
	var p packet
	p.src, _ = netip.AddrFromSlice(b[12:16])
	p.dst, _ = netip.AddrFromSlice(b[16:20])
	p.length = int(binary.BigEndian.Uint16(b[2:]))
	rest := b[min(int(b[0]&0xf)*4, len(b)):]
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		rest = nil // a later fragment has no ports
	}
	p.transport(b[9], rest)
	return p
}

func decode6(b []byte) packet {
	const header = 40
	if len(b) < header {
		return packet{protocol: "short IPv6", length: len(b)}
	}
	var p packet
	p.src, _ = netip.AddrFromSlice(b[8:24])
	p.dst, _ = netip.AddrFromSlice(b[24:40])
	p.length = header + int(binary.BigEndian.Uint16(b[4:]))
	p.transport(upper(b[6], b[header:]))
	return p
}

// upper walks the extension headers of IPv6 to the first that is none.
func upper(next uint8, b []byte) (proto uint8, rest []byte) {
	for len(b) >= 8 {
		length := int(b[1])*8 + 8
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
		case unix.IPPROTO_AH:
			length = int(b[1])*4 + 8
		case unix.IPPROTO_FRAGMENT:
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return b[0], nil
			}
			length = 8
		default:
			return next, b
		}
		next, b = b[0], b[min(length, len(b)):]
	}
	return next, b
}

// flagNames are TCP's, from the lowest bit.
var flagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

func (p *packet) transport(proto uint8, b []byte) {
	p.proto = ruleset.Proto(proto)
	p.protocol = p.proto.String()
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		if len(b) >= 4 {
			p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
		if proto == unix.IPPROTO_TCP && len(b) >= 14 {
			p.flags = tcpFlags(b[13])
		}
	case unix.IPPROTO_ICMP:
		p.protocol = "ICMP"
	case unix.IPPROTO_ICMPV6:
		p.protocol = "ICMPv6"
	}
	if (proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6) && len(b) >= 2 {
		p.icmp = &api.ICMP{Type: b[0], Code: b[1]}
	}
}

func tcpFlags(bits byte) string {
	var names []string
	for i, name := range flagNames {
		if bits&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
