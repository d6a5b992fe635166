package nft

import (
	"maps"
	"slices"
	"sync"

	"github.com/podwall/podwall/internal/ruleset"
)

// Most changes are of one kind: a pod has come or gone somewhere, so an address
// goes into some sets or out of them, in all pods that have a rule about it. Such a
// change is worked out once for all of them, and is then one system call for each
// pod, with nothing read before and no library in between.

// A move is how one draft becomes another, if it is of that kind.
type move struct {
	once     sync.Once
	possible bool
	altered  []setChange
	narrows  bool            // what it takes away may be open: the epoch moves
	blocks   []ruleset.Block // that name the epoch
}

// most is how many elements a move may have.
const most = 256

// shift makes rs stand by a move, if it can; if it did not, nothing has changed.
func (r *Round) shift(netns int, dev device, rs *ruleset.RuleSet, last *Known) (now Known, done bool) {
	if r == nil || rs.Owned || last.Rules.Owned || last.second[ruleset.Inet] == nil || !sameGuard(rs, &last.Rules) {
		return Known{}, false
	}
	m := r.move(r.draft(&last.Rules, dev.name), r.draft(rs, dev.name))
	if !m.possible {
		return Known{}, false
	}
	now = Known{Rules: *rs, Epoch: last.Epoch, Generation: following(last.Generation), Others: last.Others, second: last.second}
	if m.narrows {
		var err error
		if now.Epoch, err = nextEpoch(netns, last.Epoch, last.Others); err != nil {
			return Known{}, false
		}
	}
	b, _ := r.batches.Get().(*batch)
	if b == nil {
		b = &batch{b: make([]byte, 0, 4096)}
	}
	defer r.batches.Put(b)
	b.begin(ruleset.Inet, last.Generation)
	if err := m.write(b, dev, now); err != nil {
		return Known{}, false
	}
	return now, r.commit(netns, b) == nil
}

// write puts the messages of m into b, for the rules of now.
func (m *move) write(b *batch, dev device, now Known) error {
	names := editions{second: now.second[ruleset.Inet]}
	for _, ch := range m.altered {
		b.elements(deleteElements, names.name(ch.set.Name), elements(ch.del))
		b.elements(addElements, names.name(ch.set.Name), elements(ch.add))
	}
	if !m.narrows {
		return nil
	}
	for _, block := range (ruleset.Table{Blocks: m.blocks}).In(now.Epoch).Blocks {
		b.flush(block.Name)
		for _, l := range block.Lines {
			if err := b.rule(block.Name, dev.line(l, names.name), comment(l.Comment)); err != nil {
				return err
			}
		}
	}
	return nil
}

// move returns the move from one draft to another, which is worked out once.
func (r *Round) move(have, want *draft) *move {
	r.mu.Lock()
	m := r.moves[[2]*draft{have, want}]
	if m == nil {
		m = &move{}
		if r.moves == nil {
			r.moves = map[[2]*draft]*move{}
		}
		r.moves[[2]*draft{have, want}] = m
	}
	r.mu.Unlock()
	m.once.Do(func() { m.work(have, want, r) })
	return m
}

// work works m out.
func (m *move) work(have, want *draft, r *Round) {
	was, now := have.in(0), want.in(0)
	if restricted(&have.rules) != restricted(&want.rules) || !maps.Equal(was.counters, now.counters) || !maps.Equal(was.limits, now.limits) ||
		!maps.EqualFunc(was.sets, now.sets, alike) || !maps.EqualFunc(was.blocks, now.blocks, heldBlock.equal) {
		return
	}
	n := 0
	for _, s := range want.table.Sets {
		add, del := r.diff(was.sets[s.Name], s)
		if c := len(add.Elements) + len(del.Elements); c > 0 {
			m.altered, n = append(m.altered, setChange{set: s, add: add, del: del}), n+c
		}
	}
	m.possible = 0 < n && n <= most && inPlace(m.altered, true)
	m.narrows = !want.rules.CoversBy(have.rules, r.covers)
	for _, b := range want.table.Blocks {
		if b.NamesEpoch() {
			m.blocks = append(m.blocks, b)
		}
	}
}

// sameGuard reports whether both rule sets, which either restrict egress both or
// neither does, guard the device alike.
func sameGuard(a, b *ruleset.RuleSet) bool {
	return a.RawSockets == b.RawSockets && a.Log == b.Log && slices.Equal(a.Addresses, b.Addresses)
}

func restricted(rs *ruleset.RuleSet) bool { return !rs.Enforced(ruleset.Egress).Open() }
