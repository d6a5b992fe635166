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
	mu   sync.Mutex // a Conn serves one at a time
	conn *nftables.Conn
}

// Own takes over podwall's tables in a namespace, as far as they were made for
// that (RuleSet.Owned). It returns nil if none was. Tables that somebody else
// owns are an error that matches ErrNotOurs.
func Own(netns int) (*Owner, error) {
	c, err := open(netns)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, f := range families {
		t, err := c.ListTableOfFamily(ruleset.TableName, tableOf(f).Family)
		// The kernel takes the flag owner away with the owner.
		if err == nil && t.Flags&nftables.TableFlagPersist != 0 {
			c.AddTable(&nftables.Table{Family: t.Family, Name: t.Name, Flags: ownable})
			n++
		}
	}
	if n == 0 {
		return nil, c.CloseLasting()
	}
	if err := c.Flush(); err != nil {
		_ = c.CloseLasting()
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: %w", ErrNotOurs, err)
		}
		return nil, fmt.Errorf("own the tables: %w", err)
	}
	return &Owner{conn: c}, nil
}

// Apply is the function of that name, with the owner's rights.
func (o *Owner) Apply(netns int, iface string, rs ruleset.RuleSet, last *Known) (Known, bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return applyBy(o.conn, netns, iface, rs, last)
}

// Close gives the tables up; they stay. It does not wait for the kernel.
func (o *Owner) Close() { done(o.conn) }
