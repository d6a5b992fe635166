package nft

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// A change queues, on one connection, the messages that turn what the kernel
// holds of an attachment in one table into what it should hold. The order matters to the
// kernel: an object must exist before a rule refers to it and must not be
// referred to when it goes.
type change struct {
	conn  *nftables.Conn
	table *nftables.Table
	dev   device
	have  held
	n     int // messages queued
}

// to queues the whole change.
func (c *change) to(want ruleset.Table) error {
	wanted := heldOf(want, c.dev)
	if len(want.Blocks) > 0 {
		c.conn.AddTable(c.table)
	}
	if !c.have.fits(wanted) {
		if err := c.remove(newHeld()); err != nil {
			return err
		}
		c.have = newHeld()
	}
	for _, name := range want.Counters {
		if !c.have.counters[name] {
			c.queue(func() { c.conn.AddObj(c.counter(name)) })
		}
	}
	for _, s := range want.Sets {
		if err := c.set(s); err != nil {
			return err
		}
	}
	c.blocks(want.Blocks)
	for _, m := range want.Maps {
		if err := c.portMap(m); err != nil {
			return err
		}
	}
	for _, b := range want.Blocks {
		c.lines(b, wanted.blocks[b.Name])
	}
	return c.remove(wanted)
}

func (c *change) queue(f func()) {
	c.n++
	f()
}

// remove queues the removal of everything that want does not name: first the
// rules, which hold references, then maps, blocks, sets and counters.
func (c *change) remove(want held) error {
	gone := func(name string) bool { _, ok := want.blocks[name]; return !ok }
	for name := range c.have.blocks {
		if gone(name) {
			c.queue(func() { c.conn.FlushChain(c.chain(name)) })
		}
	}
	for name := range c.have.maps {
		if _, ok := want.maps[name]; !ok {
			c.queue(func() { c.conn.DelSet(&nftables.Set{Table: c.table, Name: name}) })
		}
	}
	for name := range c.have.blocks {
		if gone(name) {
			c.queue(func() { c.conn.DelChain(c.chain(name)) })
		}
	}
	for name := range c.have.sets {
		if _, ok := want.sets[name]; !ok {
			c.queue(func() { c.conn.DelSet(&nftables.Set{Table: c.table, Name: name}) })
		}
	}
	for name := range c.have.counters {
		if !want.counters[name] {
			c.queue(func() { c.conn.DeleteObject(c.counter(name)) })
		}
	}
	return nil
}

func (c *change) counter(name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: c.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

func (c *change) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: c.table, Name: name}
}

// set queues a new set, or the elements by which an old one differs.
func (c *change) set(want ruleset.Set) error {
	s := &nftables.Set{Table: c.table, Name: want.Name, KeyType: nftables.TypeIPAddr, Interval: want.Interval,
		KeyByteOrder: binaryutil.BigEndian}
	if want.V6 {
		s.KeyType = nftables.TypeIP6Addr
	}
	have, ok := c.have.sets[want.Name]
	if !ok {
		c.n++
		if err := c.conn.AddSet(s, elements(want.Interval, want.Elements)); err != nil {
			return fmt.Errorf("set %s: %w", want.Name, err)
		}
		return nil
	}
	add, del := diffPrefixes(have.Elements, want.Elements)
	// Deletions first: in an interval set a new prefix may overlap an old one.
	if err := c.conn.SetDeleteElements(s, elements(want.Interval, del)); err != nil {
		return fmt.Errorf("set %s: %w", want.Name, err)
	}
	if err := c.conn.SetAddElements(s, elements(want.Interval, add)); err != nil {
		return fmt.Errorf("set %s: %w", want.Name, err)
	}
	c.n += len(add) + len(del)
	return nil
}

// elements writes prefixes as the kernel's set elements: in an interval set a
// prefix is its first address and, marked as an end, the one after its last.
func elements(interval bool, ps []netip.Prefix) []nftables.SetElement {
	elems := make([]nftables.SetElement, 0, len(ps))
	for _, p := range ps {
		first := nftables.SetElement{Key: p.Addr().AsSlice()}
		end, ok := after(p)
		first.IntervalOpen = interval && !ok
		elems = append(elems, first)
		if interval && ok {
			elems = append(elems, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elems
}

// after returns the address after p's last; false where there is none.
func after(p netip.Prefix) (netip.Addr, bool) {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	next := last.Next()
	return next, next.IsValid()
}

// portMap queues a new map, or new content for an old one: they are small.
func (c *change) portMap(want ruleset.PortMap) error {
	m := &nftables.Set{Table: c.table, Name: want.Name, IsMap: true, Interval: true,
		KeyType: nftables.TypeInetService, DataType: nftables.TypeVerdict}
	have, ok := c.have.maps[want.Name]
	if ok && slices.Equal(have.Elements, want.Elements) {
		return nil
	}
	c.n++
	var err error
	if ok {
		c.conn.FlushSet(m)
		err = c.conn.SetAddElements(m, jumps(want.Elements))
	} else {
		err = c.conn.AddSet(m, jumps(want.Elements))
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", want.Name, err)
	}
	return nil
}

func jumps(es []ruleset.PortJump) []nftables.SetElement {
	var elems []nftables.SetElement
	for _, e := range es {
		first := nftables.SetElement{Key: network(uint32(e.First)), IntervalOpen: e.Last == 65535,
			VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Block}}
		elems = append(elems, first)
		if e.Last != 65535 {
			elems = append(elems, nftables.SetElement{Key: network(uint32(e.Last) + 1), IntervalEnd: true})
		}
	}
	return elems
}

// blocks queues the blocks that are not there yet, still empty.
func (c *change) blocks(want []ruleset.Block) {
	for _, b := range want {
		if _, ok := c.have.blocks[b.Name]; !ok {
			c.queue(func() { c.conn.AddChain(c.newChain(b)) })
		}
	}
}

func (c *change) newChain(b ruleset.Block) *nftables.Chain {
	ch := c.chain(b.Name)
	switch b.Hook {
	case ruleset.NoHook:
		return ch
	case ruleset.DeviceEgress:
		ch.Device = c.dev.name
	}
	num, prio := at(b.Hook)
	drop := nftables.ChainPolicyDrop
	ch.Type, ch.Policy = nftables.ChainTypeFilter, &drop
	ch.Hooknum, ch.Priority = nftables.ChainHookRef(num), nftables.ChainPriorityRef(prio)
	return ch
}

// at returns the kernel's names for a hook.
func at(h ruleset.Hook) (nftables.ChainHook, nftables.ChainPriority) {
	switch h {
	case ruleset.Prerouting:
		return unix.NF_INET_PRE_ROUTING, *nftables.ChainPriorityMangle
	case ruleset.Output:
		return unix.NF_INET_LOCAL_OUT, *nftables.ChainPriorityFilter
	case ruleset.DeviceEgress:
		return *nftables.ChainHookEgress, *nftables.ChainPriorityFilter
	}
	return unix.NF_INET_FORWARD, *nftables.ChainPriorityFilter
}

// lines queues the rules of one block, all of them if any differs: counters are
// objects of their own, so they go on counting.
func (c *change) lines(b ruleset.Block, want heldBlock) {
	have, ok := c.have.blocks[b.Name]
	if ok && slices.Equal(have.lines, want.lines) {
		return
	}
	c.n++
	ch := c.chain(b.Name)
	if ok {
		c.conn.FlushChain(ch)
	}
	for _, l := range b.Lines {
		c.conn.AddRule(&nftables.Rule{Table: c.table, Chain: ch, Exprs: c.dev.line(l), UserData: comment(l.Comment)})
	}
}
