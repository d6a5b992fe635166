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
	c, err := dial(unix.NETLINK_ROUTE, netns)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.IFLA_IFNAME, Data: append([]byte(iface), 0)},
	})
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", iface, err)
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   append(make([]byte, unix.SizeofIfInfomsg), attrs...),
	})
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", iface, missing(err))
	}
	if len(msgs) != 1 || len(msgs[0].Data) < unix.SizeofIfInfomsg {
		return 0, fmt.Errorf("interface %s: the kernel answered with %d messages", iface, len(msgs))
	}
	return int(binary.NativeEndian.Uint32(msgs[0].Data[4:8])), nil // struct ifinfomsg, ifi_index
}

// missing makes the kernel's word for "no such interface" match fs.ErrNotExist.
func missing(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}
