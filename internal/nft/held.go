package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/ruleset"
)

// held is one attachment's part of a table, as the kernel holds it or as it
// should: objects by name, rules by fingerprint.
type held struct {
	counters map[string]bool
	limits   map[string]ruleset.Limit
	sets     map[string]ruleset.Set // without edition
	blocks   map[string]heldBlock
	// inKernel are the names that the sets were read by; none if the rest was not
	// read but is known. Both editions of a set are there, twins, only if somebody
	// else made one.
	inKernel []string
	twins    bool
	dormant  bool // the table exists and does nothing, which is somebody else's doing
	// epoch is the one that the lines are in; 0 if they say so themselves.
	epoch ruleset.Epoch
}

type heldBlock struct {
	hook  ruleset.Hook
	odd   string   // what is wrong with the block itself, where only someone else can have done that
	lines []string // fingerprints
	// epochal says that they differ from epoch to epoch, which they don't say.
	epochal bool
}

func newHeld() held {
	return held{
		counters: map[string]bool{},
		limits:   map[string]ruleset.Limit{},
		sets:     map[string]ruleset.Set{},
		blocks:   map[string]heldBlock{},
	}
}

// heldOf is what the kernel holds after t was put there.
func heldOf(t ruleset.Table, d device) held {
	h := outline(t)
	for _, b := range t.Blocks {
		lines := make([]string, len(b.Lines))
		for i, l := range b.Lines {
			lines[i] = fingerprint(d.line(l, baseName), comment(l.Comment))
		}
		h.blocks[b.Name] = heldBlock{hook: b.Hook, lines: lines}
	}
	return h
}

// knownOf is heldOf in other words, which are cheaper: enough to compare with what
// is not read but known, by tables in the same epoch or in none.
func knownOf(t ruleset.Table) held {
	h := outline(t)
	for _, b := range t.Blocks {
		lines := make([]string, len(b.Lines))
		for i, l := range b.Lines {
			lines[i] = textOf(l)
		}
		h.blocks[b.Name] = heldBlock{hook: b.Hook, lines: lines, epochal: b.NamesEpoch()}
	}
	return h
}

// textOf is equal for equal lines.
func textOf(l ruleset.Line) string {
	b := make([]byte, 0, 256)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	numbers := func(list ...uint32) {
		for _, n := range list {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	numbers(uint32(len(l.Conds)))
	for _, c := range l.Conds {
		numbers(uint32(c.Key), c.First, c.Last, c.Mask)
		text(c.Set)
		text(c.Limit)
		text(c.Addr.String())
	}
	numbers(l.Mark.And, l.Mark.Or, uint32(l.Verdict.Kind), uint32(l.Verdict.Key))
	text(l.Verdict.Target)
	text(l.Counter)
	text(l.Log)
	text(l.Comment)
	return string(b)
}

// outline is heldOf without the rules: enough to compare with nothing.
func outline(t ruleset.Table) held {
	h := newHeld()
	for _, c := range t.Counters {
		h.counters[c] = true
	}
	for _, l := range t.Limits {
		h.limits[l.Name] = l
	}
	for _, s := range t.Sets {
		h.sets[s.Name] = s
	}
	for _, b := range t.Blocks {
		h.blocks[b.Name] = heldBlock{hook: b.Hook}
	}
	return h
}

// empty reports whether nothing of the attachment is there.
func (h held) empty() bool {
	return len(h.counters)+len(h.limits)+len(h.sets)+len(h.blocks)+len(h.inKernel) == 0 && !h.dormant
}

// fits reports whether h can be turned into want object by object. Otherwise an
// object has the right name and the wrong kind, which is somebody else's work.
func (h held) fits(want held) bool {
	if h.twins {
		return false
	}
	for name, s := range h.sets {
		if w, ok := want.sets[name]; ok && !alike(s, w) {
			return false
		}
	}
	for name, l := range h.limits {
		if w, ok := want.limits[name]; ok && w != l {
			return false
		}
	}
	for name, b := range h.blocks {
		if w, ok := want.blocks[name]; ok && (w.hook != b.hook || b.odd != "") {
			return false
		}
	}
	return true
}

// equal reports whether h is what it should be.
func (h held) equal(want held, c *Round) bool {
	sameSet := func(a, b ruleset.Set) bool {
		if !alike(a, b) {
			return false
		}
		add, del := c.diff(a, b)
		return len(add.Elements)+len(del.Elements) == 0
	}
	return !h.twins && !h.dormant && h.epoch == want.epoch && maps.Equal(h.counters, want.counters) &&
		maps.Equal(h.limits, want.limits) && maps.EqualFunc(h.sets, want.sets, sameSet) &&
		maps.EqualFunc(h.blocks, want.blocks, heldBlock.equal)
}

func (b heldBlock) equal(want heldBlock) bool {
	return b.hook == want.hook && b.odd == want.odd && slices.Equal(b.lines, want.lines)
}

// judgesAs reports whether the blocks that policies make are the same in both:
// all but the kernel's entrances and the one that accepts, whose lines name the
// epoch and no set.
func (h held) judgesAs(want held) bool {
	policies := func(m map[string]heldBlock) map[string]heldBlock {
		out := map[string]heldBlock{}
		for name, b := range m {
			if b.hook == ruleset.NoHook && !strings.HasSuffix(name, ruleset.AcceptBlock) {
				out[name] = b
			}
		}
		return out
	}
	return maps.EqualFunc(policies(h.blocks), policies(want.blocks), heldBlock.equal)
}

// differences says in words how h differs from want, in a stable order.
func (h held) differences(want held) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if h.dormant {
		say("the table is dormant")
	}
	missingAndExtra(say, "counter", h.counters, want.counters)
	missingAndExtra(say, "limit", h.limits, want.limits)
	missingAndExtra(say, "set", h.sets, want.sets)
	missingAndExtra(say, "chain", h.blocks, want.blocks)
	for _, name := range both(h.limits, want.limits) {
		if h.limits[name] != want.limits[name] {
			say("limit %s: another one", name)
		}
	}
	for _, name := range both(h.sets, want.sets) {
		a, b := h.sets[name], want.sets[name]
		if !alike(a, b) {
			say("set %s: of another type", name)
			continue
		}
		if add, del := (*Round)(nil).diff(a, b); len(add.Elements)+len(del.Elements) > 0 {
			say("set %s: %d elements missing, %d too many", name, len(add.Elements), len(del.Elements))
		}
	}
	for _, name := range both(h.blocks, want.blocks) {
		a, b := h.blocks[name], want.blocks[name]
		if a.hook != b.hook || a.odd != "" {
			say("chain %s: %s", name, cmpOr(a.odd, "at another hook"))
		}
		if !slices.Equal(a.lines, b.lines) {
			say("chain %s: %s", name, firstDifference(a.lines, b.lines))
		}
	}
	return out
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func firstDifference(have, want []string) string {
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			return fmt.Sprintf("rule %d of %d is another", i+1, len(want))
		}
	}
	return fmt.Sprintf("%d rules, want %d", len(have), len(want))
}

func missingAndExtra[V any](say func(string, ...any), kind string, have, want map[string]V) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, ok := have[name]; !ok {
			say("%s %s: missing", kind, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			say("%s %s: not podwall's", kind, name)
		}
	}
}

// both returns the names in both maps, sorted.
func both[V any](a, b map[string]V) []string {
	var names []string
	for name := range a {
		if _, ok := b[name]; ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// alike reports whether two sets are of one type, so that one can become the
// other element by element.
func alike(a, b ruleset.Set) bool {
	return a.V6 == b.V6 && a.Interval == b.Interval && (a.Targets == nil) == (b.Targets == nil)
}

// diff returns what turns have into want. The elements of both are canonical, so
// one walk along the two is enough; the same slices are not walked. An element of
// a map that leads elsewhere is in both results.
func (c *Round) diff(have, want ruleset.Set) (add, del ruleset.Set) {
	add.Interval, del.Interval = want.Interval, want.Interval
	if want.Targets == nil {
		add.Elements, del.Elements = c.between(have.Elements, want.Elements)
		return add, del
	}
	i, j := 0, 0
	for i < len(have.Elements) || j < len(want.Elements) {
		switch c := compareAt(have, i, want, j); {
		case c < 0:
			take(&del, have, i)
			i++
		case c > 0:
			take(&add, want, j)
			j++
		default:
			if have.Targets[i] != want.Targets[j] {
				take(&del, have, i)
				take(&add, want, j)
			}
			i, j = i+1, j+1
		}
	}
	return add, del
}

// compareAt orders element i of a and element j of b; the end comes last.
func compareAt(a ruleset.Set, i int, b ruleset.Set, j int) int {
	switch {
	case i == len(a.Elements):
		return 1
	case j == len(b.Elements):
		return -1
	}
	return ruleset.ComparePrefix(a.Elements[i], b.Elements[j])
}

// take adds element i of from to s.
func take(s *ruleset.Set, from ruleset.Set, i int) {
	s.Elements, s.Targets = append(s.Elements, from.Elements[i]), append(s.Targets, from.Targets[i])
}

func sameSlice(a, b []netip.Prefix) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
