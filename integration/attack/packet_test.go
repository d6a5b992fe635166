package attack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
)

// A pod with CAP_NET_RAW, the default of Docker and containerd, writes frames to
// its device. They never met a rule for packets.
func TestPacketSocket(t *testing.T) {
	t.Parallel()
	wage(t, newField(t), packetAttacks(), "jail", "narrow")
}

// A frame is one that a packet socket sends.
type frame struct {
	kind    int    // SOCK_RAW, or SOCK_DGRAM, for which the kernel writes the header
	told    uint16 // the type that the kernel is told
	options []intruder.Option
	ring    bool
}

// to makes an act of sending bytes to the neighbour.
func (fr frame) to(f *field, b []byte) intruder.Act {
	return intruder.Act{Sends: []intruder.Send{{
		Domain: unix.AF_PACKET, Type: fr.kind, Options: fr.options, Ring: fr.ring,
		Device: "eth0", Ether: fr.told, MAC: f.neighbour.mac, Packets: [][]byte{b},
	}}}
}

// bypass sends past the queueing discipline.
func bypass() []intruder.Option {
	return []intruder.Option{{Level: unix.SOL_PACKET, Name: unix.PACKET_QDISC_BYPASS, Int: 1}}
}

// udpTo is a datagram from the pod to the neighbour, in the family of a.
func udpTo(p *pod, f *field, v6 bool, token []byte) []byte {
	from, to := p.v4, f.neighbour.v4
	if v6 {
		from, to = p.v6, f.neighbour.v6
	}
	return datagram(netip.AddrPortFrom(from, 4444), netip.AddrPortFrom(to, 8080), token)
}

// whole is a frame with such a datagram.
func whole(f *field, p *pod, token []byte) []byte {
	return ether(f.neighbour.mac, p.mac, etherIPv4, udpTo(p, f, false, token))
}

// packetAttacks are those of AF_PACKET sockets.
func packetAttacks() []attack {
	raw, cooked := unix.SOCK_RAW, unix.SOCK_DGRAM
	// sent is an attack whose frame is made by build.
	sent := func(name string, fr frame, build func(*field, *pod, []byte) []byte) attack {
		return attack{name: name, needs: []int{intruder.NetRaw}, act: func(f *field, p *pod, token []byte) intruder.Act {
			return fr.to(f, build(f, p, token))
		}}
	}
	bare := func(f *field, p *pod, token []byte) []byte { return udpTo(p, f, false, token) }
	wrapped := func(tags ...[]byte) func(*field, *pod, []byte) []byte {
		return func(f *field, p *pod, token []byte) []byte {
			return join(f.neighbour.mac, p.mac, join(tags...), be16(etherIPv4), bare(f, p, token))
		}
	}
	vlan := func(tpid, id uint16) []byte { return join(be16(tpid), be16(id)) }
	return []attack{
		sent("frame", frame{kind: raw, told: etherIPv4}, whole),
		sent("frame with a kernel's header", frame{kind: cooked, told: etherIPv4}, bare),
		sent("frame past the qdisc", frame{kind: raw, told: etherIPv4, options: bypass()}, whole),
		sent("frame with a kernel's header past the qdisc", frame{kind: cooked, told: etherIPv4, options: bypass()}, bare),
		sent("frame from a ring", frame{kind: raw, told: etherIPv4, ring: true}, whole),
		sent("frame from a ring past the qdisc", frame{kind: raw, told: etherIPv4, ring: true, options: bypass()}, whole),
		sent("frame of IPv6", frame{kind: raw, told: etherIPv6}, func(f *field, p *pod, token []byte) []byte {
			return ether(f.neighbour.mac, p.mac, etherIPv6, udpTo(p, f, true, token))
		}),
		sent("IPv4 announced as ARP", frame{kind: raw, told: etherARP}, whole),
		sent("IPv4 announced as LLDP", frame{kind: raw, told: etherLLDP}, whole),
		sent("IPv4 announced as nothing", frame{kind: raw}, whole),
		sent("IPv4 announced as ARP past the qdisc", frame{kind: raw, told: etherARP, options: bypass()}, whole),
		sent("IPv4 in a frame of type ARP", frame{kind: cooked, told: etherARP}, bare),
		sent("VLAN tag", frame{kind: raw, told: etherVLAN}, wrapped(vlan(etherVLAN, 7))),
		sent("VLAN tag announced as IPv4", frame{kind: raw, told: etherIPv4}, wrapped(vlan(etherVLAN, 7))),
		sent("priority tag", frame{kind: raw, told: etherVLAN}, wrapped(vlan(etherVLAN, 0))),
		sent("QinQ tags", frame{kind: raw, told: etherQinQ}, wrapped(vlan(etherQinQ, 7), vlan(etherVLAN, 8))),
		sent("frame of an unknown type", frame{kind: raw, told: etherLab}, func(f *field, p *pod, token []byte) []byte {
			return ether(f.neighbour.mac, p.mac, etherLab, token)
		}),
		sent("segmentation offload", frame{kind: raw, told: etherIPv4,
			options: []intruder.Option{{Level: unix.SOL_PACKET, Name: unix.PACKET_VNET_HDR, Int: 1}}},
			func(f *field, p *pod, token []byte) []byte { return join(make([]byte, 10), whole(f, p, token)) }),
		sent("data behind an ARP request", frame{kind: raw, told: etherARP}, func(f *field, p *pod, token []byte) []byte {
			return ether(f.neighbour.mac, p.mac, etherARP, join(arp(1, p.mac, p.v4, make([]byte, 6), f.neighbour.v4), token))
		}),
	}
}
