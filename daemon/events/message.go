package events

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of a logged packet.
const (
	attrHeader    = 1
	attrTimestamp = 3
	attrPayload   = 9
	attrPrefix    = 10
	attrSequence  = 12
)

// A message is one packet as the kernel logs it.
type message struct {
	family   uint8 // of the table
	hook     uint8
	prefix   string
	payload  []byte    // its beginning; the message's own memory
	time     time.Time // when it arrived; zero where the kernel does not say
	sequence uint32    // counts what the kernel has sent, or tried to
}

// arriving reports whether the packet came from outside.
func (m *message) arriving() bool {
	return m.family != unix.NFPROTO_NETDEV && m.hook == unix.NF_INET_PRE_ROUTING
}

// frame reports whether the payload begins with the link's header.
func (m *message) frame() bool { return m.family == unix.NFPROTO_NETDEV }

// parse reads one datagram. What it returns refers to b.
func parse(b []byte) ([]message, error) {
	raw, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("logged packets: %w", err)
	}
	var list []message
	for _, r := range raw {
		if r.Header.Type != nflogPacket || len(r.Data) < nfgenmsgLength {
			continue // the end of several, or an answer
		}
		m := message{family: r.Data[0]}
		if err := m.read(r.Data[nfgenmsgLength:]); err != nil {
			return list, fmt.Errorf("logged packet: %w", err)
		}
		list = append(list, m)
	}
	return list, nil
}

func (m *message) read(attrs []byte) error {
	ad, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch b := ad.Bytes(); ad.Type() {
		case attrHeader: // struct nfulnl_msg_packet_hdr
			if len(b) >= 3 {
				m.hook = b[2]
			}
		case attrTimestamp: // struct nfulnl_msg_packet_timestamp
			if len(b) >= 16 {
				m.time = time.Unix(int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:])%1e6)*1000).UTC()
			}
		case attrPayload:
			m.payload = b
		case attrPrefix:
			m.prefix = ad.String()
		case attrSequence:
			if len(b) >= 4 {
				m.sequence = binary.BigEndian.Uint32(b)
			}
		}
	}
	return ad.Err()
}
