package nft

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// families are those of podwall's tables, in the order in which they are written.
var families = [...]ruleset.Family{ruleset.Inet, ruleset.Netdev}

// tableOf is podwall's table of one family in a pod's namespace.
func tableOf(f ruleset.Family) *nftables.Table {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: ruleset.TableName}
	if f == ruleset.Netdev {
		t.Family = nftables.TableFamilyNetdev
	}
	return t
}

// maxFD is the first descriptor number that google/nftables can't poll: its
// select(2) set has 1,024 bits, and it panics beyond (google/nftables#352,
// open in November 2026).
const maxFD = 1024

// patience is how long the kernel may take to answer all that one operation asks
// it. It takes milliseconds; but an answer that was lost never comes, and nothing
// may wait for it for ever. The error matches os.ErrDeadlineExceeded.
const patience = 10 * time.Second

// A conn is a connection to nftables, for one operation at a time: one that two
// goroutines share loses replies.
type conn struct {
	*nftables.Conn
	socket *netlink.Conn
	until  time.Time   // the operation has time
	limit  *time.Timer // closes the socket: the library goes on to read after any other error
}

// open returns a connection to nftables in the namespace that netns refers to,
// for one operation. The caller ends it with done.
func open(netns int) (*conn, error) {
	var c conn
	var err error
	c.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(netns), nftables.WithSockOptions(func(s *netlink.Conn) error {
		c.socket = s
		return prepare(s)
	}))
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	c.limit = time.AfterFunc(patience, func() { _ = c.socket.Close() })
	if err := c.begin(); err != nil {
		done(&c)
		return nil, err
	}
	return &c, nil
}

// begin gives the next operation its time. The deadline comes before the end of
// the socket, and so is the error.
func (c *conn) begin() error {
	c.until = time.Now().Add(patience)
	if err := c.socket.SetDeadline(c.until); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	c.limit.Reset(patience + patience/100)
	return nil
}

// late reports whether the time of the operation is over, so that an answer may still
// come. Its error does not always say so: the library wraps some of them in words
// only.
func (c *conn) late() bool { return !time.Now().Before(c.until) }

// rest lets the time between two operations be as long as it likes.
func (c *conn) rest() { c.limit.Stop() }

// dial returns a socket of another of netlink's protocols, for one operation.
func dial(protocol, netns int) (*netlink.Conn, error) {
	c, err := netlink.Dial(protocol, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return c, nil
}

// prepare refuses sockets that would make the library panic and sizes the
// buffers, which the library leaves alone once it is given an option.
func prepare(c *netlink.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var fd uintptr
	if err := raw.Control(func(f uintptr) { fd = f }); err != nil {
		return err
	}
	if fd >= maxFD {
		_ = c.Close() // the library forgets to, when an option fails
		return fmt.Errorf("descriptor %d: all below %d are in use: %w", fd, maxFD, unix.EMFILE)
	}
	if err := c.SetWriteBuffer(32 << 20); err != nil {
		return fmt.Errorf("set send buffer: %w", err)
	}
	if err := c.SetReadBuffer(16 << 20); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	return nil
}

// done closes c without waiting: after a transaction that removed something the
// kernel holds a closing socket for a grace period of 10 ms and more, long after
// the transaction is in force, and nobody needs to know when that ends.
func done(c *conn) {
	c.rest()
	go func() { _ = c.CloseLasting() }()
}

// generation returns the number of the namespace's last transaction.
func generation(c *nftables.Conn) (uint32, error) {
	g, err := c.GetGen()
	if err != nil {
		return 0, fmt.Errorf("get generation: %w", err)
	}
	return g.ID, nil
}
