package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// Attributes and messages of linux/netfilter/nfnetlink_conntrack.h that the unix
// package does not name.
const (
	ctnlNew      = unix.NFNL_SUBSYS_CTNETLINK<<8 | 0
	ctnlGet      = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctaTupleOrig = 1
	ctaMark      = 8
	ctaZone      = 18
	ctaMarkMask  = 21
)

// clearMarks takes the epoch out of the mark of every connection in the
// namespace, so that none is taken for accepted when that epoch's number is used
// again. The connections live on and are judged at their next packet. Those that
// come up meanwhile get the epoch in force, which is not the one that comes.
func clearMarks(netns int) error {
	c, err := dial(unix.NETLINK_NETFILTER, netns)
	if err != nil {
		return err
	}
	defer c.Close()
	flows, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: ctnlGet, Flags: netlink.Request | netlink.Dump},
		Data:   nfgenmsg(unix.AF_UNSPEC),
	})
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	for _, f := range flows {
		if err := clearMark(c, f); err != nil {
			return err
		}
	}
	return nil
}

// nfgenmsg is the header that follows netlink's in every netfilter message.
func nfgenmsg(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func clearMark(c *netlink.Conn, flow netlink.Message) error {
	ad, err := netlink.NewAttributeDecoder(flow.Data[4:])
	if err != nil {
		return fmt.Errorf("read connection: %w", err)
	}
	var keep []netlink.Attribute
	var mark uint32
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			keep = append(keep, netlink.Attribute{Type: unix.NLA_F_NESTED | ctaTupleOrig, Data: ad.Bytes()})
		case ctaZone:
			keep = append(keep, netlink.Attribute{Type: ctaZone, Data: ad.Bytes()})
		case ctaMark:
			mark = binary.BigEndian.Uint32(ad.Bytes())
		}
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("read connection: %w", err)
	}
	if ruleset.EpochOf(mark) == 0 {
		return nil
	}
	attrs, err := netlink.MarshalAttributes(append(keep,
		netlink.Attribute{Type: ctaMark, Data: make([]byte, 4)},
		netlink.Attribute{Type: ctaMarkMask, Data: binary.BigEndian.AppendUint32(nil, ruleset.MaxEpoch.Mark())}))
	if err != nil {
		return fmt.Errorf("clear mark: %w", err)
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: ctnlNew, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(flow.Data[0]), attrs...),
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the connection has ended
		return fmt.Errorf("clear mark: %w", err)
	}
	return nil
}
