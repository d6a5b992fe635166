package intruder

import "net/netip"

// An Act is what an intruder does, in the order of the fields.
type Act struct {
	Script string // for sh -e
	Fill   int    // put so many connections into the namespace's table
	Sends  []Send
	Sniff  []byte // wait until a frame with these bytes passes any device, and say so
}

// A Send opens a socket and sends packets from it.
type Send struct {
	Domain, Type, Protocol int // as in socket(2); AF_XDP needs no more
	Options                []Option
	Bind                   netip.AddrPort // optional

	To      netip.AddrPort // for IP sockets
	Device  string         // for AF_PACKET and AF_XDP
	Ether   uint16         // for AF_PACKET: what the kernel is told about the frame's type
	MAC     []byte         // for AF_PACKET: the receiver, where the kernel makes the header
	Ring    bool           // for AF_PACKET: send by PACKET_TX_RING
	Packets [][]byte
}

// An Option is an argument of setsockopt(2): Bytes, or an integer without them.
type Option struct {
	Level, Name int
	Int         int
	Bytes       []byte
}
