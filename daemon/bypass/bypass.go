// Package bypass sees whether a pod's traffic goes past the rules in its network
// namespace.
//
// Kata gives the pod's packets to a virtual machine: it puts a tap device beside
// the pod's interface and has traffic control move every packet from one to the
// other, before any hook of nftables for IP.
//
//	eth0 ── ingress qdisc ── filter: mirred redirect ──▶ tap0_kata ──▶ the guest
//	eth0 ◀── mirred redirect: filter ── ingress qdisc ── tap0_kata ◀── the guest
//
// Or it makes a macvtap device upon the interface. So do others that run virtual
// machines inside a pod.
//
// # Contract
//
// Find reads the namespace through rtnetlink, by its descriptor, and changes
// nothing. It sees the shapes above. It does not see gVisor, which has its own IP
// stack over a packet socket: such pods are known by their runtime class.
package bypass

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take to answer. It takes no time, save where
// an answer is lost.
const patience = 10 * time.Second

// Find says how traffic of the interface iface goes past the rules in the network
// namespace that netns refers to. It is empty where it does not, or where there
// is no such interface.
func Find(netns int, iface string) (how string, err error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: netns})
	if err != nil {
		return "", fmt.Errorf("open rtnetlink: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", fmt.Errorf("open rtnetlink: %w", err)
	}
	links, err := list(c)
	if err != nil {
		return "", fmt.Errorf("list interfaces: %w", err)
	}
	own, taps := beside(links, iface)
	for _, tap := range taps {
		if tap.kind == macvtap && tap.parent == own.index {
			return fmt.Sprintf("%s, a macvtap device upon %s, takes it", tap.name, iface), nil
		}
	}
	if own.index == 0 || len(taps) == 0 {
		return "", nil // as in every ordinary pod
	}
	targets, err := redirects(c, own.index)
	if err != nil {
		return "", fmt.Errorf("list filters of %s: %w", iface, err)
	}
	for _, tap := range taps {
		if targets[tap.index] {
			return fmt.Sprintf("what arrives at %s is redirected to %s, a tap device, as Kata does", iface, tap.name), nil
		}
	}
	return "", nil
}

// The kinds of interfaces through which a virtual machine gets its packets.
const (
	tun     = "tun" // also of tap devices
	macvtap = "macvtap"
)

// A link is one interface.
type link struct {
	index, parent uint32
	name, kind    string
}

// beside returns the interface of that name, and those that end in a virtual
// machine.
func beside(links []link, iface string) (own link, taps []link) {
	for _, l := range links {
		switch {
		case l.name == iface:
			own = l
		case l.kind == tun, l.kind == macvtap:
			taps = append(taps, l)
		}
	}
	return own, taps
}

// list returns all interfaces.
func list(c *netlink.Conn) ([]link, error) {
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
	if err != nil {
		return nil, err
	}
	var links []link
	for _, m := range msgs {
		l, err := parseLink(m.Data)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// parseLink reads what follows the header of RTM_NEWLINK.
func parseLink(data []byte) (link, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("message of %d bytes: want at least %d", len(data), unix.SizeofIfInfomsg)
	}
	l := link{index: binary.NativeEndian.Uint32(data[4:])}
	d, err := netlink.NewAttributeDecoder(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return link{}, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_LINK:
			l.parent = d.Uint32()
		case unix.IFLA_LINKINFO:
			d.Nested(func(info *netlink.AttributeDecoder) error {
				for info.Next() {
					if info.Type() == unix.IFLA_INFO_KIND {
						l.kind = info.String()
					}
				}
				return nil
			})
		}
	}
	return l, d.Err()
}
