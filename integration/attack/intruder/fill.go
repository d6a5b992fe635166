package intruder

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// What unix has no names for.
const (
	ctNew        = unix.NFNL_SUBSYS_CTNETLINK << 8
	nested       = unix.NLA_F_NESTED
	ctOriginal   = 1
	ctReply      = 2
	ctStatus     = 3
	ctTimeout    = 7
	statusKept   = 1<<1 | 1<<2 | 1<<3 // seen reply, assured, confirmed: never evicted
	messageBatch = 200
)

// fill inserts connections into the namespace's table, each of which the kernel
// must keep for a minute.
func fill(n int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// Nobody reads the answers; those to what no longer fits are lost.
	var b []byte
	for i := range n {
		b = append(b, connection(uint32(i))...)
		if i%messageBatch == messageBatch-1 || i == n-1 {
			if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return fmt.Errorf("insert connections: %w", err)
			}
			b = b[:0]
		}
	}
	return nil
}

// connection is the message that inserts the i-th one, between addresses that
// nobody has.
func connection(i uint32) []byte {
	from := binary.BigEndian.AppendUint32(nil, 198<<24|18<<16|i>>16)
	to := []byte{198, 19, 0, 1}
	port := binary.BigEndian.AppendUint16(nil, uint16(i))
	other := []byte{0, 9}
	body := append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0},
		attribute(ctOriginal|nested, tuple(from, to, port, other))...)
	body = append(body, attribute(ctReply|nested, tuple(to, from, other, port))...)
	body = append(body, attribute(ctStatus, binary.BigEndian.AppendUint32(nil, statusKept))...)
	body = append(body, attribute(ctTimeout, binary.BigEndian.AppendUint32(nil, 60))...)
	h := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	h = binary.NativeEndian.AppendUint16(h, ctNew)
	h = binary.NativeEndian.AppendUint16(h, unix.NLM_F_REQUEST|unix.NLM_F_CREATE)
	return append(append(h, make([]byte, 8)...), body...)
}

// tuple is one direction of a UDP flow.
func tuple(from, to, fromPort, toPort []byte) []byte {
	ip := append(attribute(1, from), attribute(2, to)...)
	proto := append(attribute(1, []byte{unix.IPPROTO_UDP}), append(attribute(2, fromPort), attribute(3, toPort)...)...)
	return append(attribute(1|nested, ip), attribute(2|nested, proto)...)
}

// attribute is padded to 4 bytes.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, (4-len(value)%4)%4)...)
}
