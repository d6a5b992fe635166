package nft

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// ownable are the flags of a table that belongs to the socket which made it or
// took it over, and stays when that socket closes (Linux 6.9). Nobody else may
// change it, or flush it, as long as the socket is open; afterwards anybody who
// may change nftables there can take it over.
const ownable = nftables.TableFlagOwner | nftables.TableFlagPersist

// ErrNotOurs says that the tables belong to a socket that is not podwalld's.
var ErrNotOurs = errors.New("the tables belong to another process")

// An Owner owns podwall's tables in one namespace, which it keeps from going
// away. Its methods may be called from any goroutine.
type Owner struct {
	mu   sync.Mutex // a conn serves one at a time
	conn *conn      // nil once an answer did not come: what comes late would be taken for the next
}

// Own takes over podwall's tables in a namespace, as far as they were made for
// that (RuleSet.Owned). It returns nil if none was. Tables that somebody else
// owns are an error that matches ErrNotOurs.
//
// Taking over is a transaction. Own returns the generation after it, if the one
// before was the given one, else 0: the rules may have changed.
func Own(netns int, generation uint32) (*Owner, uint32, error) {
	c, err := open(netns)
	if err != nil {
		return nil, 0, err
	}
	ours, next, err := own(c.Conn, generation)
	c.rest()
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w", ErrNotOurs, err)
	}
	if !ours {
		_ = c.CloseLasting()
		return nil, next, err
	}
	return &Owner{conn: c}, next, err
}

// own makes c the owner of the tables, if there are any for that.
func own(c *nftables.Conn, generation uint32) (done bool, next uint32, err error) {
	var ours []*nftables.Table
	for _, f := range families {
		t, err := c.ListTableOfFamily(ruleset.TableName, tableOf(f).Family)
		// The kernel takes the flag owner away with the owner.
		if err == nil && t.Flags&nftables.TableFlagPersist != 0 {
			ours = append(ours, &nftables.Table{Family: t.Family, Name: t.Name, Flags: ownable})
		}
	}
	if len(ours) == 0 {
		return false, generation, nil
	}
	for _, g := range []uint32{generation, 0} {
		for _, t := range ours {
			c.AddTable(t)
		}
		err := c.FlushWithGenID(g)
		switch {
		case err == nil && g != 0:
			return true, following(g), nil
		case err == nil:
			return true, 0, nil
		case !errors.Is(err, unix.ERESTART):
			return false, 0, fmt.Errorf("own the tables: %w", err)
		}
	}
	return false, 0, fmt.Errorf("own the tables: %w", unix.ERESTART)
}

// Apply is the function of that name, with the owner's rights.
func (o *Owner) Apply(netns int, iface string, rs ruleset.RuleSet, last *Known) (Known, bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.ready(netns); err != nil {
		return Known{}, false, fmt.Errorf("apply rules of %s: %w", iface, err)
	}
	defer o.conn.rest()
	now, wrote, err := applyBy(o.conn.Conn, netns, iface, rs, last)
	if err != nil && o.conn.late() {
		_ = o.conn.CloseLasting() // the tables stay, and are taken over again next time
		o.conn = nil
	}
	return now, wrote, err
}

// ready gives the next operation its time, or makes up for a connection that was
// given up.
func (o *Owner) ready(netns int) error {
	if o.conn != nil {
		return o.conn.begin()
	}
	again, _, err := Own(netns, 0)
	switch {
	case err != nil:
		return err
	case again != nil:
		o.conn = again.conn
		return o.conn.begin()
	}
	o.conn, err = open(netns) // what it makes is its own
	return err
}

// Close gives the tables up; they stay, and may be written to by others when it
// returns. It waits for the kernel, up to some 15 ms.
func (o *Owner) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != nil {
		_ = o.conn.CloseLasting()
	}
}
