package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// ping sends echo requests until one is answered.
func (f Flow) ping(ctx context.Context) error {
	network, source := "ip4:icmp", "0.0.0.0"
	request, reply := byte(8), byte(0)
	if f.To.Addr().Is6() {
		network, source = "ip6:ipv6-icmp", "::"
		request, reply = 128, 129
	}
	if f.Source.IsValid() {
		source = f.Source.String()
	}
	c, err := f.From.ListenPacket(network, source)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	id := uint16(rand.Uint32()) // tells this ping from others in the namespace
	to := &net.IPAddr{IP: f.To.Addr().AsSlice()}
	for ctx.Err() == nil {
		if _, err := c.WriteTo(echoRequest(request, id), to); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
		if heard(c, reply, id, time.Now().Add(resend)) {
			return nil
		}
	}
	return fmt.Errorf("ping %s: %w", f.To.Addr(), ctx.Err())
}

// echoRequest is the message with its checksum for IPv4. The kernel overwrites
// it for IPv6.
func echoRequest(kind byte, id uint16) []byte {
	b := make([]byte, 8)
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	sum := uint32(kind)<<8 + uint32(id)
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

// heard reports whether the answer to a request came before the deadline.
func heard(c net.PacketConn, kind byte, id uint16, deadline time.Time) bool {
	if err := c.SetReadDeadline(deadline); err != nil {
		return false
	}
	b := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return false
		}
		if n >= 8 && b[0] == kind && binary.BigEndian.Uint16(b[4:]) == id {
			return true
		}
	}
}
