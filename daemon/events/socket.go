package events

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// ErrTaken says that another process listens in the pod's namespace to what its
// rules log. It takes CAP_NET_ADMIN there.
var ErrTaken = errors.New("another process in the pod's network namespace listens to the log of its rules")

// Messages and attributes of linux/netfilter/nfnetlink_log.h.
const (
	nflogPacket = unix.NFNL_SUBSYS_ULOG<<8 | 0
	nflogConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1

	cfgCommand   = 1
	cfgMode      = 2
	cfgTimeout   = 4
	cfgThreshold = 5
	cfgFlags     = 6

	commandBind    = 1
	copyPacket     = 2
	flagSequence   = 1
	nfgenmsgLength = 4
)

const (
	snapLength = 128 // bytes of each packet: both headers, with options
	// The kernel hands over packets when it has so many, or after so long.
	threshold = 32
	delay     = 10 // hundredths of a second
	// socketBuffer has room for a burst of several thousand packets, of which a
	// busy daemon reads none meanwhile.
	socketBuffer = 1 << 20
	// leastFD keeps long-lived descriptors out of the low numbers, which
	// google/nftables can't do without.
	leastFD = 4096
)

// openSocket returns a socket that receives what the rules in a namespace log.
// The caller closes it. ErrTaken is the error if somebody else does.
func openSocket(netns int) (fd int, err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return -1, fmt.Errorf("open netlink: %w", err)
	}
	defer c.Close()
	if err := bind(c); err != nil {
		return -1, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if ctlErr := raw.Control(func(low uintptr) {
		if fd, err = unix.FcntlInt(low, unix.F_DUPFD_CLOEXEC, leastFD); errors.Is(err, unix.EINVAL) { // not so many are allowed
			fd, err = unix.FcntlInt(low, unix.F_DUPFD_CLOEXEC, 0)
		}
	}); ctlErr != nil {
		return -1, ctlErr
	}
	if err != nil {
		return -1, fmt.Errorf("duplicate socket: %w", err)
	}
	return fd, nil
}

// bind makes c the listener of podwall's group.
func bind(c *netlink.Conn) error {
	if err := errors.Join(c.SetReadBuffer(socketBuffer), c.SetOption(netlink.NoENOBUFS, true)); err != nil {
		return fmt.Errorf("prepare socket: %w", err)
	}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: cfgCommand, Data: []byte{commandBind}},
		{Type: cfgMode, Data: append(be32(snapLength), copyPacket, 0)},
		{Type: cfgTimeout, Data: be32(delay)},
		{Type: cfgThreshold, Data: be32(threshold)},
		{Type: cfgFlags, Data: binary.BigEndian.AppendUint16(nil, flagSequence)},
	})
	if err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, ruleset.LogGroup)
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: nflogConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, attrs...),
	})
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: group %d: %w", ErrTaken, ruleset.LogGroup, err)
	}
	if err != nil {
		return fmt.Errorf("bind to group %d: %w", ruleset.LogGroup, err)
	}
	return nil
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// receive reads one datagram without waiting. It skips what is not the kernel's:
// a process in the pod that has CAP_NET_ADMIN may send to the socket, too.
func receive(fd int, buf []byte) (n int, err error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return n, nil
		}
	}
}

// siocgskns is SIOCGSKNS of linux/sockios.h.
const siocgskns = 0x894c

// namespaceOf returns a descriptor of the namespace that a socket is in. The
// caller closes it.
func namespaceOf(fd int) (int, error) {
	ns, err := unix.IoctlRetInt(fd, siocgskns)
	if err != nil {
		return -1, fmt.Errorf("namespace of a socket: %w", err)
	}
	unix.CloseOnExec(ns)
	return ns, nil
}
