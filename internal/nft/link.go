package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Index returns the index of an interface in a namespace. A missing one is an
// error that matches fs.ErrNotExist.
func Index(netns int, iface string) (int, error) {
	data, err := link(netns, iface)
	if err != nil {
		return 0, err
	}
	return int(binary.NativeEndian.Uint32(data[4:8])), nil // struct ifinfomsg, ifi_index
}

// Volume returns what an interface in a namespace has received and sent.
func Volume(netns int, iface string) (received, sent Count, err error) {
	data, err := link(netns, iface)
	if err != nil {
		return received, sent, err
	}
	ad, err := netlink.NewAttributeDecoder(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return received, sent, fmt.Errorf("interface %s: %w", iface, err)
	}
	for ad.Next() {
		// struct rtnl_link_stats64: packets and then bytes, received and sent in turn
		if b := ad.Bytes(); ad.Type() == unix.IFLA_STATS64 && len(b) >= 32 {
			at := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
			received, sent = Count{Packets: at(0), Bytes: at(2)}, Count{Packets: at(1), Bytes: at(3)}
		}
	}
	if err := ad.Err(); err != nil {
		return received, sent, fmt.Errorf("interface %s: %w", iface, err)
	}
	return received, sent, nil
}

// link returns what the kernel says about an interface: a struct ifinfomsg, and
// attributes.
func link(netns int, iface string) ([]byte, error) {
	c, err := dial(unix.NETLINK_ROUTE, netns)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.IFLA_IFNAME, Data: append([]byte(iface), 0)},
	})
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   append(make([]byte, unix.SizeofIfInfomsg), attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, missing(err))
	}
	if len(msgs) != 1 || len(msgs[0].Data) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("interface %s: the kernel answered with %d messages", iface, len(msgs))
	}
	return msgs[0].Data, nil
}

// missing makes the kernel's word for "no such interface" match fs.ErrNotExist.
func missing(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}
