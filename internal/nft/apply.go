package nft

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// Known is what an attachment's kernel rules were when they were last looked at.
type Known struct {
	Rules      ruleset.RuleSet
	Epoch      ruleset.Epoch
	Generation uint32 // of the namespace's nftables; anybody's change there moves it
	// Found says in words what stood otherwise than it should, where Apply had to
	// read rules that were there before.
	Found []string
	// Others are the epochs of the namespace's other attachments, which this one
	// must not take.
	Others []ruleset.Epoch
	// Round, if it is set, is what this call shares with those for other
	// attachments.
	Round *Round
	// Index is the interface's, if the caller has just looked; 0 looks.
	Index int

	second [len(families)]map[string]bool // of the sets, in the order of families; nil if that is not known
}

// Apply makes rs the firewall of interface iface in the network namespace that
// the descriptor netns refers to, and returns what stands there afterwards.
// wrote says whether anything had to change.
//
// last is what the caller knows to be there; Apply relies on it only as long as
// the namespace's generation is the one it names, and reads the kernel
// otherwise. With nil it reads the kernel.
//
// The change is one transaction; one before it may make sets that nothing uses
// yet. If it takes something away, or if Apply can't tell because it did not know
// the rules before, it moves the epoch with it, so that every open connection is
// judged again at its next packet. On error the
// rules before stand, unless the error came after the kernel had committed; a
// caller that passes nil next time is right in either case.
func Apply(netns int, iface string, rs ruleset.RuleSet, last *Known) (now Known, wrote bool, err error) {
	if last != nil && last.Index != 0 {
		if now, done := last.Round.shift(netns, device{index: last.Index, name: iface}, &rs, last); done {
			return now, true, nil
		}
	}
	c, err := open(netns)
	if err != nil {
		return Known{}, false, fmt.Errorf("apply rules of %s: %w", iface, err)
	}
	now, wrote, err = applyBy(c.Conn, netns, iface, rs, last)
	if rs.Owned {
		c.rest()
		_ = c.CloseLasting() // and with it the ownership, which the daemon waits for
	} else {
		done(c)
	}
	return now, wrote, err
}

// applyBy is Apply on an open connection.
func applyBy(c *nftables.Conn, netns int, iface string, rs ruleset.RuleSet, last *Known) (now Known, wrote bool, err error) {
	const tries = 5 // somebody else may commit between our reading and our writing
	for range tries {
		now, wrote, err = apply(c, netns, iface, rs, last)
		if !errors.Is(err, unix.ERESTART) {
			break
		}
	}
	if err != nil {
		return Known{}, false, fmt.Errorf("apply rules of %s: %w", iface, err)
	}
	return now, wrote, nil
}

func apply(c *nftables.Conn, netns int, iface string, rs ruleset.RuleSet, last *Known) (Known, bool, error) {
	index, err := indexOf(netns, iface, last)
	if err != nil {
		return Known{}, false, err
	}
	if now, ok, err := stands(c, rs, last); ok || err != nil {
		return now, false, err
	}
	dev := device{index: index, name: iface}
	was, sure, err := before(c, dev, last)
	if err != nil {
		return Known{}, false, err
	}
	now := Known{Rules: rs, Epoch: was.epoch, Generation: was.generation, Others: was.others, Round: was.round}
	if !sure && now.Epoch != 0 { // in a new namespace there is nothing to compare
		now.Found = was.differences(targets(now, iface), dev)
	}
	if now.Epoch == 0 || len(now.Found) > 0 || (sure && !rs.CoversBy(last.Rules, last.Round.covers)) {
		if now.Epoch, err = nextEpoch(netns, was.epoch, was.others); err != nil {
			return Known{}, false, err
		}
	}
	now.Generation, now.second, err = commit(c, dev, was, targets(now, iface), rs.Owned)
	now.Round = nil // which is not to be kept
	return now, now.Generation != was.generation, err
}

// indexOf is the index of an interface.
func indexOf(netns int, iface string, last *Known) (int, error) {
	if last != nil && last.Index != 0 {
		return last.Index, nil
	}
	return Index(netns, iface)
}

// stands reports whether rs is known to be there already, and what is known then.
func stands(c *nftables.Conn, rs ruleset.RuleSet, last *Known) (Known, bool, error) {
	if last == nil || !reflect.DeepEqual(last.Rules, rs) {
		return Known{}, false, nil
	}
	g, err := generation(c)
	if err != nil || g != last.Generation {
		return Known{}, false, err
	}
	now := *last
	now.Found, now.Round, now.Index = nil, nil, 0
	return now, true, nil
}

// commit turns what was read into want and returns the generation it ends in, and
// which sets have their second edition then.
func commit(c *nftables.Conn, dev device, was reading, want [len(families)]target, owned bool) (uint32, [len(families)]map[string]bool, error) {
	generation, second := was.generation, was.second
	var changes [len(families)]*change
	for i, t := range want {
		changes[i] = &change{conn: c, table: tableOf(t.Family), dev: dev, have: was.held[i], want: t,
			known: was.known, second: was.second[i], round: was.round}
		if owned {
			changes[i].table.Flags = ownable
		}
		if err := changes[i].plan(); err != nil {
			return 0, second, err
		}
	}
	for _, step := range []func(*change) error{(*change).prepare, (*change).do} {
		queued := 0
		for _, ch := range changes {
			if err := step(ch); err != nil {
				return 0, second, err
			}
			queued, ch.n = queued+ch.n, 0
		}
		if queued == 0 {
			continue
		}
		if err := c.FlushWithGenID(generation); err != nil {
			return 0, second, err
		}
		generation = following(generation)
	}
	for i, ch := range changes {
		second[i] = ch.second
	}
	return generation, second, nil
}

// following is the generation after g, as the kernel counts.
func following(g uint32) uint32 { return max(g+1, 1) }

// differences says in words how what was read differs from want.
func (r *reading) differences(want [len(families)]target, dev device) []string {
	var diffs []string
	for i, t := range want {
		diffs = append(diffs, r.held[i].differences(heldOf(t.Table, dev))...)
	}
	return diffs
}

// A target is a table that should stand.
type target struct {
	ruleset.Table
	known func() held // what is held of it then, in the words of knownOf
}

// targets returns what should stand, in the order of families.
func targets(k Known, iface string) [len(families)]target {
	d, guard := k.Round.draft(&k.Rules, iface), k.Rules.Guard(iface)
	return [...]target{
		{Table: d.table.In(k.Epoch), known: func() held { return d.in(k.Epoch) }},
		{Table: guard, known: func() held { return knownOf(guard) }},
	}
}

// before returns what the kernel holds: what last says if nothing has happened
// in the namespace since (sure is true then), else what is read from it.
func before(c *nftables.Conn, dev device, last *Known) (r reading, sure bool, err error) {
	if last != nil {
		g, err := generation(c)
		if err != nil {
			return reading{}, false, err
		}
		if g == last.Generation {
			r = reading{generation: g, epoch: last.Epoch, others: last.Others, known: true, second: last.second, round: last.Round}
			for i, t := range targets(*last, dev.name) {
				r.held[i] = t.known()
			}
			return r, true, nil
		}
	}
	r, err = read(c, ruleset.Prefix(dev.name))
	if last != nil && r.epoch == 0 {
		// Somebody removed the rules. Connections still carry the epoch they had.
		r.epoch = last.Epoch
	}
	return r, false, err
}

// nextEpoch returns the epoch after cur that no other attachment has. Before an
// epoch comes round again it clears the marks of the connections that carry it.
func nextEpoch(netns int, cur ruleset.Epoch, others []ruleset.Epoch) (ruleset.Epoch, error) {
	e := cur.Next()
	for slices.Contains(others, e) {
		e = e.Next()
	}
	if e > cur {
		return e, nil
	}
	if err := clearMarks(netns); err != nil {
		return 0, fmt.Errorf("start the epochs again: %w", err)
	}
	return e, nil
}

// Check compares what the kernel holds with what known says it should, and
// returns the differences in words and the generation it looked at. It changes
// nothing. No differences: the kernel holds exactly these rules.
func Check(netns int, iface string, known Known) ([]string, uint32, error) {
	index, err := Index(netns, iface)
	if err != nil {
		return nil, 0, fmt.Errorf("check rules of %s: %w", iface, err)
	}
	c, err := open(netns)
	if err != nil {
		return nil, 0, fmt.Errorf("check rules of %s: %w", iface, err)
	}
	defer done(c)
	r, err := read(c.Conn, ruleset.Prefix(iface))
	if err != nil {
		return nil, 0, fmt.Errorf("check rules of %s: %w", iface, err)
	}
	return r.differences(targets(known, iface), device{index: index, name: iface}), r.generation, nil
}

// Generation returns the number of the last nftables transaction in the
// namespace, whoever made it.
func Generation(netns int) (uint32, error) {
	c, err := open(netns)
	if err != nil {
		return 0, err
	}
	defer done(c)
	return generation(c.Conn)
}

// A Count is the value of a counter.
type Count struct{ Packets, Bytes uint64 }

// Counters returns the values of all counters of podwall's tables, by name. A
// namespace without the tables has none.
func Counters(netns int) (map[string]Count, error) {
	c, err := open(netns)
	if err != nil {
		return nil, err
	}
	defer done(c)
	all := map[string]Count{}
	for _, f := range families {
		counts, err := counters(c.Conn, tableOf(f))
		if err != nil {
			return nil, err
		}
		maps.Copy(all, counts)
	}
	return all, nil
}
