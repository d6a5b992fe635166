package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Name returns the name of the interface that has an index in a namespace, which
// stays the same when the name changes. A missing one is an error that matches
// fs.ErrNotExist.
func Name(netns, index int) (string, error) {
	c, err := dial(unix.NETLINK_ROUTE, netns)
	if err != nil {
		return "", err
	}
	defer c.Close()
	data := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(data[4:8], uint32(index)) // struct ifinfomsg, ifi_index
	msgs, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: data})
	if err != nil {
		return "", fmt.Errorf("interface %d: %w", index, missing(err))
	}
	for _, m := range msgs {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(unix.SizeofIfInfomsg, len(m.Data)):])
		if err != nil {
			return "", fmt.Errorf("interface %d: %w", index, err)
		}
		for ad.Next() {
			if ad.Type() == unix.IFLA_IFNAME {
				return ad.String(), ad.Err()
			}
		}
	}
	return "", fmt.Errorf("interface %d: the kernel does not say its name", index)
}
