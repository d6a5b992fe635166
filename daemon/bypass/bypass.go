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
// machines inside a pod. And a pod that may configure its network can put another
// device in the interface's place, whose packets meet the rules for connections
// nowhere: a macvlan upon it, a bridge that it becomes a port of, a redirect from
// another device.
//
// # Contract
//
// Find reads the namespace through rtnetlink, by its descriptor, and changes
// nothing. It sees the shapes above, as long as both devices are in the namespace.
// It does not see gVisor, which has its own IP stack over a packet socket: such
// pods are known by their runtime class.
package bypass

import (
	"encoding/binary"
	"fmt"
	"slices"
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
	own, others := beside(links, iface)
	if own.index == 0 || len(others) == 0 {
		return "", nil // as in every ordinary pod
	}
	if how := stacked(own, others); how != "" {
		return how, nil
	}
	return redirected(c, own, others)
}

// The kinds of interfaces through which a virtual machine gets its packets.
const (
	tun     = "tun" // also of tap devices
	macvtap = "macvtap"
)

// upon are the kinds of interfaces that send and receive by the one they are made
// upon, and within the kinds that do so by their ports.
var (
	upon   = []string{macvtap, "macvlan", "ipvlan", "ipvtap", "vlan"}
	within = []string{"bridge", "bond", "team"}
)

// A link is one interface.
type link struct {
	index      uint32
	parent     uint32 // what it was made upon, if that is in the same namespace
	master     uint32 // what it is a port of
	name, kind string
}

// beside returns the interface of that name, and all others but the loopback.
func beside(links []link, iface string) (own link, others []link) {
	for _, l := range links {
		switch {
		case l.name == iface:
			own = l
		case l.name != "lo":
			others = append(others, l)
		}
	}
	return own, others
}

// stacked says which of the others stands upon own, or has it as a port.
func stacked(own link, others []link) string {
	for _, l := range others {
		switch {
		case l.parent == own.index && slices.Contains(upon, l.kind):
			return fmt.Sprintf("%s, a %s device upon %s, takes it", l.name, l.kind, own.name)
		case l.index == own.master && slices.Contains(within, l.kind):
			return fmt.Sprintf("%s is a port of %s, a %s, which takes it", own.name, l.name, l.kind)
		}
	}
	return ""
}

// redirected says whose packets traffic control moves from own, or to it.
func redirected(c *netlink.Conn, own link, others []link) (string, error) {
	arriving, err := redirects(c, own.index, ingressParent)
	if err != nil {
		return "", fmt.Errorf("list filters of %s: %w", own.name, err)
	}
	for _, l := range others {
		if l.kind == tun && arriving[l.index] {
			return fmt.Sprintf("what arrives at %s is redirected to %s, a tap device, as Kata does", own.name, l.name), nil
		}
	}
	for _, l := range others {
		for _, side := range []uint32{ingressParent, egressParent} {
			targets, err := redirects(c, l.index, side)
			if err != nil {
				return "", fmt.Errorf("list filters of %s: %w", l.name, err)
			}
			if targets[own.index] {
				return fmt.Sprintf("packets of %s, a device of the pod's, are redirected to %s", l.name, own.name), nil
			}
		}
	}
	return "", nil
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
	elsewhere := false // the parent is in another namespace, where its index means another
	for d.Next() {
		switch d.Type() {
		case unix.IFLA_IFNAME:
			l.name = d.String()
		case unix.IFLA_LINK:
			l.parent = d.Uint32()
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_MASTER:
			l.master = d.Uint32()
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
	if elsewhere {
		l.parent = 0
	}
	return l, d.Err()
}
