package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/podwall/podwall/internal/ruleset"
)

// A reading is what the kernel holds of one attachment, and the epochs of all
// attachments in the namespace.
type reading struct {
	generation uint32
	held       [len(families)]held
	epoch      ruleset.Epoch // 0 if there is none yet
	others     []ruleset.Epoch
	known      bool                           // held was not read, and is in the words of knownOf
	second     [len(families)]map[string]bool // sets of their second edition; nil if that is not known
	round      *Round                         // of the call
}

// read reads the attachment's objects: those whose names start with prefix.
func read(c *nftables.Conn, prefix string) (r reading, err error) {
	if r.generation, err = generation(c); err != nil {
		return r, err
	}
	for i, f := range families {
		r.held[i] = newHeld()
		if err := r.table(c, f, prefix); err != nil {
			return r, err
		}
	}
	return r, nil
}

// table reads the attachment's part of one table.
func (r *reading) table(c *nftables.Conn, f ruleset.Family, prefix string) error {
	t := tableOf(f)
	there, err := c.ListTableOfFamily(t.Name, t.Family)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list table: %w", err)
	}
	r.held[f].dormant = there.Flags&nftables.TableFlagDormant != 0
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != ruleset.TableName {
			continue
		}
		if err := r.chain(c, f, ch, prefix); err != nil {
			return err
		}
	}
	if err := r.sets(c, f, prefix); err != nil {
		return err
	}
	return r.objects(c, f, prefix)
}

// objects reads the attachment's counters and limits.
func (r *reading) objects(c *nftables.Conn, f ruleset.Family, prefix string) error {
	objs, err := c.GetNamedObjects(tableOf(f))
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	for _, o := range objs {
		n, ok := o.(*nftables.NamedObj)
		if !ok || !strings.HasPrefix(n.Name, prefix) {
			continue
		}
		switch v := n.Obj.(type) {
		case *expr.Counter:
			r.held[f].counters[n.Name] = true
		case *expr.Limit:
			r.held[f].limits[n.Name] = limitOf(n.Name, v)
		}
	}
	return nil
}

// limitOf is a limit as ruleset has it; the zero Limit if it can't be one that
// podwall made.
func limitOf(name string, l *expr.Limit) ruleset.Limit {
	if l.Type != expr.LimitTypePkts || l.Unit != expr.LimitTimeSecond || !l.Over || l.Rate > math.MaxUint32 {
		return ruleset.Limit{}
	}
	return ruleset.Limit{Name: name, Rate: uint32(l.Rate), Burst: l.Burst}
}

// counters reads all counters of a table; there are none without the table.
func counters(c *nftables.Conn, t *nftables.Table) (map[string]Count, error) {
	objs, err := c.GetNamedObjects(t)
	if err != nil {
		return nil, fmt.Errorf("list counters: %w", err)
	}
	counts := make(map[string]Count, len(objs))
	for _, o := range objs {
		if n, ok := o.(*nftables.NamedObj); ok {
			if v, ok := n.Obj.(*expr.Counter); ok {
				counts[n.Name] = Count{Packets: v.Packets, Bytes: v.Bytes}
			}
		}
	}
	return counts, nil
}

// chain reads one chain of the table. Of other attachments only the epoch
// matters.
func (r *reading) chain(c *nftables.Conn, f ruleset.Family, ch *nftables.Chain, prefix string) error {
	mine := strings.HasPrefix(ch.Name, prefix)
	stamps := strings.HasSuffix(ch.Name, ruleset.AcceptBlock)
	if !mine && !stamps {
		return nil
	}
	rules, err := c.GetRules(tableOf(f), ch)
	if err != nil {
		return fmt.Errorf("list rules of chain %s: %w", ch.Name, err)
	}
	if stamps {
		if mine {
			r.epoch = stamped(rules)
		} else {
			r.others = append(r.others, stamped(rules))
		}
	}
	if !mine {
		return nil
	}
	b := heldBlock{lines: make([]string, len(rules))}
	for i, rule := range rules {
		b.lines[i] = fingerprint(rule.Exprs, rule.UserData)
	}
	b.hook, b.odd = hookOf(f, ch)
	r.held[f].blocks[ch.Name] = b
	return nil
}

// hookOf returns the hook of a chain, and what is wrong with it if it can't be
// one that podwall made.
func hookOf(f ruleset.Family, ch *nftables.Chain) (ruleset.Hook, string) {
	if ch.Hooknum == nil {
		return ruleset.NoHook, ""
	}
	hooks := []ruleset.Hook{ruleset.Prerouting, ruleset.Postrouting}
	if f == ruleset.Netdev {
		hooks = []ruleset.Hook{ruleset.DeviceEgress}
	}
	for _, h := range hooks {
		num, prio := at(h)
		if *ch.Hooknum != num || *ch.Priority != prio {
			continue
		}
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			return h, "policy is not drop"
		}
		return h, ""
	}
	return ruleset.NoHook, "at a hook that is not podwall's"
}

// stamped returns the epoch that an accepting chain writes into the mark.
func stamped(rules []*nftables.Rule) ruleset.Epoch {
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if b, ok := e.(*expr.Bitwise); ok && len(b.Xor) == 4 {
				return ruleset.EpochOf(binary.NativeEndian.Uint32(b.Xor))
			}
		}
	}
	return 0
}

// sets reads the attachment's sets.
func (r *reading) sets(c *nftables.Conn, f ruleset.Family, prefix string) error {
	sets, err := c.GetSets(tableOf(f))
	if err != nil {
		return fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if !strings.HasPrefix(s.Name, prefix) {
			continue
		}
		s.Table = tableOf(f)
		elems, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("list elements of set %s: %w", s.Name, err)
		}
		r.held[f].inKernel = append(r.held[f].inKernel, s.Name)
		name := baseName(s.Name)
		if _, twice := r.held[f].sets[name]; twice {
			name, r.held[f].twins = s.Name, true
		}
		r.held[f].sets[name] = ruleset.Set{Name: name, V6: s.KeyType.Name == nftables.TypeIP6Addr.Name,
			Interval: s.Interval, Elements: prefixes(s.Interval, elems)}
		if s.IsMap {
			r.held[f].sets[name] = mapOf(r.held[f].sets[name], elems)
		}
	}
	return nil
}

// prefixes is the inverse of elements. An interval that is no prefix is not
// podwall's; it gives an invalid Prefix, which equals none.
func prefixes(interval bool, elems []nftables.SetElement) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(elems))
	for i, e := range inOrder(elems) {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok || e.IntervalEnd:
			continue
		case !interval:
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		out = append(out, prefixFrom(a, endOf(elems, i)))
	}
	slices.SortFunc(out, ruleset.ComparePrefix)
	return out
}

// inOrder sorts elements by key, an interval's end before the next one's start.
func inOrder(elems []nftables.SetElement) []nftables.SetElement {
	slices.SortFunc(elems, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		switch {
		case a.IntervalEnd == b.IntervalEnd:
			return 0
		case a.IntervalEnd:
			return -1
		}
		return 1
	})
	return elems
}

// endOf returns the key that ends the interval which element i starts, or nil if
// it is open.
func endOf(elems []nftables.SetElement, i int) []byte {
	if i+1 < len(elems) && elems[i+1].IntervalEnd {
		return elems[i+1].Key
	}
	return nil
}

// prefixFrom returns the prefix that starts at first and ends before end.
func prefixFrom(first netip.Addr, end []byte) netip.Prefix {
	for bits := 0; bits <= first.BitLen(); bits++ {
		p := netip.PrefixFrom(first, bits)
		next, ok := after(p)
		if p.Masked() == p && ok == (end != nil) && (!ok || slices.Equal(next.AsSlice(), end)) {
			return p
		}
	}
	return netip.Prefix{}
}
