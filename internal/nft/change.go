package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// A change queues, on one connection, the messages that turn what the kernel
// holds of an attachment in one table into what it should hold. The order
// matters to the kernel: an object must exist before a rule refers to it and
// must not be referred to when it goes. First plan, then perhaps prepare and a
// transaction, then do and a transaction.
//
// The kernel switches all rules in one instant: a packet that is being judged
// goes on with the rules it began with, for as long as that takes. But it looks
// into the sets as they are at each look. So elements are changed in place only
// where every mixture of earlier and later looks ends in the verdict of the old
// rules or of the new ones; otherwise the changed sets get a second edition, of
// another name, which the new rules refer to (see editions.go).
type change struct {
	conn   *nftables.Conn
	table  *nftables.Table
	dev    device
	have   held
	want   target
	wanted held
	n      int             // messages queued
	known  bool            // have and wanted are in the words of knownOf
	second map[string]bool // sets that have, and in the end will have, their second edition; nil if that is not known
	round  *Round

	editions editions
	fresh    []ruleset.Set   // to be made: new sets, and new editions of old ones
	altered  []setChange     // to be changed in place
	renewed  map[string]bool // names of the sets that get a new edition
	prepared bool            // the fresh interval sets are there already
}

// plan decides what is to be done about the sets.
func (c *change) plan() error {
	c.renewed = map[string]bool{}
	if c.have.empty() { // as at ADD, which is not to wait for fingerprints
		c.wanted, c.fresh = outline(c.want.Table), c.want.Sets
		return nil
	}
	if c.known {
		c.wanted = c.want.known()
	} else {
		c.wanted = heldOf(c.want.Table, c.dev)
	}
	if c.have.equal(c.wanted, c.round) {
		return nil
	}
	if !c.have.fits(c.wanted) {
		c.fresh = c.want.Sets
		return nil
	}
	var err error
	if c.editions, err = c.present(); err != nil {
		return err
	}
	c.second = c.editions.second
	var changed []setChange
	for _, s := range c.want.Sets {
		have, ok := c.have.sets[s.Name]
		if !ok {
			c.fresh = append(c.fresh, s)
			continue
		}
		if add, del := c.round.diff(have, s); len(add.Elements)+len(del.Elements) > 0 {
			changed = append(changed, setChange{set: s, add: add, del: del})
		}
	}
	if inPlace(changed, c.have.judgesAs(c.wanted)) {
		c.altered = changed
		return nil
	}
	for _, ch := range changed {
		c.renewed[ch.set.Name] = true
		c.editions.renew(ch.set.Name)
		c.fresh = append(c.fresh, ch.set)
	}
	return nil
}

// prepare queues the fresh interval sets alone, if packets may be on their way
// through the attachment's rules already, for a transaction of its own: the
// kernel (6.18) begins to find the elements of a new interval set a moment after
// it begins to use the rules that came with it.
func (c *change) prepare() error {
	if len(c.have.blocks) == 0 || !c.have.fits(c.wanted) {
		return nil
	}
	for _, s := range c.fresh {
		if s.Interval {
			if err := c.addSet(s); err != nil {
				return err
			}
		}
	}
	c.prepared = true
	return nil
}

// do queues the whole change, or what prepare has left of it.
func (c *change) do() error {
	if c.have.equal(c.wanted, c.round) {
		return nil
	}
	// An existing table is not asked for again: its flags, if others, would be
	// refused.
	switch {
	case c.have.dormant:
		c.queue(func() { c.conn.AddTable(c.table) }) // wakes it up
	case len(c.have.blocks) == 0 && !exists(c.conn, c.table):
		c.conn.AddTable(c.table)
	}
	if !c.have.fits(c.wanted) {
		// Start afresh: what there is goes, by the names it was read by.
		c.editions, c.second = editions{old: c.have.inKernel}, nil
		c.have.sets = nil
		c.remove(newHeld())
		c.have = newHeld()
	}
	for _, l := range c.want.Limits {
		if _, ok := c.have.limits[l.Name]; !ok {
			c.queue(func() { c.conn.AddObj(c.limit(l)) })
		}
	}
	for _, name := range c.want.Counters {
		if !c.have.counters[name] {
			c.queue(func() { c.conn.AddObj(c.counter(name)) })
		}
	}
	for _, b := range c.want.Blocks {
		if _, ok := c.have.blocks[b.Name]; !ok {
			c.queue(func() { c.conn.AddChain(c.newChain(b)) })
		}
	}
	for _, s := range c.fresh {
		if s.Interval && c.prepared {
			continue
		}
		if err := c.addSet(s); err != nil {
			return err
		}
	}
	for _, ch := range c.altered {
		if err := c.alter(ch); err != nil {
			return err
		}
	}
	for _, b := range c.want.Blocks {
		c.lines(b, c.wanted.blocks[b.Name])
	}
	c.remove(c.wanted)
	return nil
}

// exists reports whether a table exists; an error counts as yes, since the next
// call will say what is wrong.
func exists(c *nftables.Conn, t *nftables.Table) bool {
	_, err := c.ListTableOfFamily(t.Name, t.Family)
	return !errors.Is(err, fs.ErrNotExist)
}

func (c *change) queue(f func()) {
	c.n++
	f()
}

// remove queues the removal of everything that want does not name: first the
// rules, which hold references, then blocks, sets, counters and limits.
func (c *change) remove(want held) {
	gone := func(name string) bool { _, ok := want.blocks[name]; return !ok }
	for name := range c.have.blocks {
		if gone(name) {
			c.queue(func() { c.conn.FlushChain(c.chain(name)) })
		}
	}
	for name := range c.have.sets {
		if _, ok := want.sets[name]; !ok {
			c.queue(func() { c.conn.DelSet(&nftables.Set{Table: c.table, Name: c.editions.name(name)}) })
		}
	}
	for _, name := range c.editions.old {
		c.queue(func() { c.conn.DelSet(&nftables.Set{Table: c.table, Name: name}) })
	}
	c.editions.old = nil
	for name := range c.have.blocks { // no map leads there any more
		if gone(name) {
			c.queue(func() { c.conn.DelChain(c.chain(name)) })
		}
	}
	for name := range c.have.counters {
		if !want.counters[name] {
			c.queue(func() { c.conn.DeleteObject(c.counter(name)) })
		}
	}
	for name := range c.have.limits {
		if _, ok := want.limits[name]; !ok {
			c.queue(func() { c.conn.DeleteObject(c.limit(ruleset.Limit{Name: name})) })
		}
	}
}

func (c *change) counter(name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: c.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

// limit is met by what is beyond l.
func (c *change) limit(l ruleset.Limit) *nftables.NamedObj {
	return &nftables.NamedObj{Table: c.table, Name: l.Name, Type: nftables.ObjTypeLimit, Obj: &expr.Limit{
		Type: expr.LimitTypePkts, Rate: uint64(l.Rate), Unit: expr.LimitTimeSecond, Burst: l.Burst, Over: true}}
}

func (c *change) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: c.table, Name: name}
}

// kernelSet is s under the name that it has, or will have, in the kernel.
func (c *change) kernelSet(s ruleset.Set) *nftables.Set {
	k := &nftables.Set{Table: c.table, Name: c.editions.name(s.Name), KeyType: nftables.TypeIPAddr,
		Interval: s.Interval, KeyByteOrder: binaryutil.BigEndian}
	if s.V6 {
		k.KeyType = nftables.TypeIP6Addr
	}
	if s.Targets != nil {
		k.IsMap, k.DataType = true, nftables.TypeVerdict
	}
	return k
}

func (c *change) addSet(s ruleset.Set) error {
	c.n++
	if err := c.conn.AddSet(c.kernelSet(s), nil); err != nil {
		return fmt.Errorf("set %s: %w", s.Name, err)
	}
	return c.addElements(s)
}

// addElements queues the elements of s, a part at a time: the library needs ten
// times the memory of an element to write it, and the plugin is to stay small.
func (c *change) addElements(s ruleset.Set) error {
	const part = 1000
	for first := 0; first < len(s.Elements); first += part {
		last := min(first+part, len(s.Elements))
		some := s
		some.Elements = s.Elements[first:last]
		if s.Targets != nil {
			some.Targets = s.Targets[first:last]
		}
		if err := c.conn.SetAddElements(c.kernelSet(s), elements(some)); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

// alter queues the elements by which a set differs. Deletions come first: in an
// interval set a new prefix may overlap an old one.
func (c *change) alter(ch setChange) error {
	c.n++
	s := c.kernelSet(ch.set)
	if err := c.conn.SetDeleteElements(s, elements(ch.del)); err != nil {
		return fmt.Errorf("set %s: %w", ch.set.Name, err)
	}
	ch.set.Elements, ch.set.Targets = ch.add.Elements, ch.add.Targets
	return c.addElements(ch.set)
}

// elements writes prefixes as the kernel's set elements: in an interval set a
// prefix is its first address and, marked as an end, the one after its last.
func elements(s ruleset.Set) []nftables.SetElement {
	elems := make([]nftables.SetElement, 0, len(s.Elements))
	for i, p := range s.Elements {
		first := nftables.SetElement{Key: p.Addr().AsSlice()}
		end, ok := after(p)
		first.IntervalOpen = s.Interval && !ok
		if s.Targets != nil {
			first.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: s.Targets[i]}
		}
		elems = append(elems, first)
		if s.Interval && ok {
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
	case ruleset.DeviceEgress:
		return *nftables.ChainHookEgress, *nftables.ChainPriorityFilter
	}
	return unix.NF_INET_POST_ROUTING, *nftables.ChainPriorityFilter
}

// lines queues the rules of one block, all of them if any differs or refers to a
// set of a new edition: counters are objects of their own, so they go on
// counting.
func (c *change) lines(b ruleset.Block, want heldBlock) {
	have, ok := c.have.blocks[b.Name]
	moved := want.epochal && c.have.epoch != c.wanted.epoch
	if ok && !moved && slices.Equal(have.lines, want.lines) && !refers(b, c.renewed) {
		return
	}
	c.n++
	ch := c.chain(b.Name)
	if ok {
		c.conn.FlushChain(ch)
	}
	for _, l := range b.Lines {
		c.conn.AddRule(&nftables.Rule{Table: c.table, Chain: ch, Exprs: c.dev.line(l, c.editions.name), UserData: comment(l.Comment)})
	}
}

func refers(b ruleset.Block, sets map[string]bool) bool {
	for _, l := range b.Lines {
		for _, cond := range l.Conds {
			if sets[cond.Set] {
				return true
			}
		}
		if l.Verdict.Kind == ruleset.VerdictMap && sets[l.Verdict.Target] {
			return true
		}
	}
	return false
}
