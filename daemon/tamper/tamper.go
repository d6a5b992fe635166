// Package tamper hears who changes nftables, or a device, in the pods' network
// namespaces.
//
//	pod's namespace ── nft, ip, … ──▶ kernel ── notification, with the namespace's id ──▶ Watch
//
// One socket for each of the two subjects hears all namespaces that have an id
// in the daemon's own, so no pod's namespace is entered or pinned for it.
//
// # Contract
//
// Watch reports each transaction and each change of a device once, in order, and
// says so when the kernel had to leave some out: then anything may have changed.
// It reports the daemon's own changes, too.
package tamper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// An Event is one change in one namespace.
type Event struct {
	// Namespace is the id that NamespaceID gives.
	Namespace int32
	// Generation is that of the namespace's nftables after a transaction, 0 for a
	// change of a device.
	Generation uint32
	// PID and Command name the process behind a transaction, as the machine's
	// first pid namespace knows it.
	PID     uint32
	Command string
	// Lost says that events were left out, of whatever namespace; nothing else
	// counts then.
	Lost bool
}

// Who names the process behind the event, for people.
func (e Event) Who() string {
	if e.PID == 0 {
		return "somebody"
	}
	return fmt.Sprintf("%s (process %d)", e.Command, e.PID)
}

// newGen is the message that ends the notifications of a transaction.
const newGen = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// Watch calls heard for each event until ctx ends, from one goroutine at a time
// for each subject, and returns nil then. When it has heard what there is, it lets
// more gather for a while: a change that concerns many namespaces would wake it for
// each of them, in the middle of the next.
func Watch(ctx context.Context, gather time.Duration, heard func(Event)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return listen(ctx, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES, gather, heard) })
	g.Go(func() error { return listen(ctx, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, gather, heard) })
	return g.Wait()
}

// listen reads one multicast group of one protocol.
func listen(ctx context.Context, protocol int, group uint32, gather time.Duration, heard func(Event)) error {
	c, err := netlink.Dial(protocol, nil)
	if err != nil {
		return fmt.Errorf("listen to namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close()
	if protocol == unix.NETLINK_NETFILTER {
		filter, err := generationsOnly()
		if err := errors.Join(err, c.SetBPF(filter)); err != nil {
			return fmt.Errorf("listen to namespaces: %w", err)
		}
	}
	if err := errors.Join(c.SetOption(netlink.ListenAllNSID, true), c.SetReadBuffer(4<<20), c.JoinGroup(group)); err != nil {
		return fmt.Errorf("listen to namespaces: %w", err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen to namespaces: %w", err)
	}
	r := receiver{raw: raw, gather: gather, buf: make([]byte, 256<<10), oob: make([]byte, unix.CmsgSpace(64))}
	for {
		ns, messages, err := r.receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			heard(Event{Lost: true})
			continue
		case err != nil:
			return fmt.Errorf("listen to namespaces: %w", err)
		}
		for _, m := range messages {
			if e, ok := event(m); ok {
				e.Namespace = ns
				heard(e)
			}
		}
	}
}

// A receiver reads datagrams with the id of the namespace that they are from,
// which the netlink package does not tell.
type receiver struct {
	raw      syscall.RawConn
	gather   time.Duration
	heard    bool // something since it last waited
	buf, oob []byte
}

func (r *receiver) receive() (ns int32, messages []syscall.NetlinkMessage, err error) {
	var n, oobn int
	nothing := func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), r.buf, r.oob, 0)
		return errors.Is(err, unix.EAGAIN)
	}
	if readErr := r.raw.Read(func(fd uintptr) bool {
		wait := nothing(fd)
		if wait && r.heard && r.gather > 0 {
			time.Sleep(r.gather)
			wait = nothing(fd)
		}
		r.heard = !wait
		return !wait
	}); readErr != nil {
		return 0, nil, readErr
	}
	if err != nil {
		return 0, nil, err
	}
	messages, err = syscall.ParseNetlinkMessage(r.buf[:n])
	return namespaceOf(r.oob[:oobn]), messages, err
}

// namespaceOf returns the id that came with a datagram; the daemon's own
// namespace has none, which is -1.
func namespaceOf(oob []byte) int32 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return -1
}

// event returns what a message says, if it is one that ends a transaction or is
// about a device.
func event(m syscall.NetlinkMessage) (Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return Event{}, true
	case newGen:
	default:
		return Event{}, false
	}
	const header = 4 // struct nfgenmsg
	if len(m.Data) < header {
		return Event{}, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return Event{}, false
	}
	ad.ByteOrder = binary.BigEndian
	var e Event
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_GEN_ID:
			e.Generation = ad.Uint32()
		case unix.NFTA_GEN_PROC_PID:
			e.PID = ad.Uint32()
		case unix.NFTA_GEN_PROC_NAME:
			e.Command = ad.String()
		}
	}
	return e, ad.Err() == nil
}

// Attributes of linux/net_namespace.h.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// patience is how long the kernel may take to answer. It takes no time, save where
// an answer is lost.
const patience = 10 * time.Second

// NamespaceID returns the id of a network namespace within the daemon's own. One
// that has none is given one.
func NamespaceID(netns int) (int32, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return 0, fmt.Errorf("id of a namespace: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, fmt.Errorf("id of a namespace: %w", err)
	}
	id, err := askID(c, netns)
	if err == nil && id < 0 {
		if _, err = request(c, unix.RTM_NEWNSID, netlink.Request|netlink.Acknowledge, netns, netlink.Attribute{Type: netnsaNSID, Data: int32Bytes(-1)}); err == nil {
			id, err = askID(c, netns)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("id of a namespace: %w", err)
	}
	return id, nil
}

func int32Bytes(v int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

func request(c *netlink.Conn, kind netlink.HeaderType, flags netlink.HeaderFlags, netns int, more ...netlink.Attribute) ([]netlink.Message, error) {
	attrs, err := netlink.MarshalAttributes(append(more, netlink.Attribute{Type: netnsaFD, Data: int32Bytes(int32(netns))}))
	if err != nil {
		return nil, err
	}
	const header = 4 // struct rtgenmsg, padded
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: flags},
		Data:   append(make([]byte, header), attrs...),
	})
}

// askID returns the id that a namespace has, or -1.
func askID(c *netlink.Conn, netns int) (int32, error) {
	answers, err := request(c, unix.RTM_GETNSID, netlink.Request, netns)
	if err != nil {
		return 0, err
	}
	const header = 4
	for _, a := range answers {
		if len(a.Data) < header {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(a.Data[header:])
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == netnsaNSID {
				return ad.Int32(), ad.Err()
			}
		}
	}
	return -1, nil
}
