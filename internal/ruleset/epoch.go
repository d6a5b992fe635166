package ruleset

import "slices"

// An Epoch numbers the states of an attachment's rules that took something away
// from the one before. The kernel keeps in each connection's mark the epoch that
// accepted it; a connection of another epoch is judged again.
type Epoch uint16

// The connection mark, from the top: one bit that says nobody saw the flow's
// first packet, one that says it was seen on loopback, fourteen bits of epoch,
// sixteen bits that belong to others (Istio uses 1337 there). Epoch 0 is never in force, so that the mark of a
// connection nobody judged yet matches none.
const (
	MaxEpoch    Epoch  = 0x3fff
	epochMask   uint32 = 0x3fff_0000
	home        uint32 = 0x4000_0000
	midstream   uint32 = 0x8000_0000
	othersMask  uint32 = 0x0000_ffff
	epochOffset        = 16
)

// Mark is e where the connection mark holds it.
func (e Epoch) Mark() uint32 { return uint32(e) << epochOffset }

// EpochOf returns the epoch in a connection mark.
func EpochOf(mark uint32) Epoch { return Epoch(mark & epochMask >> epochOffset) }

// Next is the epoch after e: 1 after MaxEpoch, and after 0.
func (e Epoch) Next() Epoch { return e%MaxEpoch + 1 }

// In is t in epoch e: only lines that name the epoch differ.
func (t Table) In(e Epoch) Table {
	t.Epoch, t.Blocks = e, slices.Clone(t.Blocks)
	for i, b := range t.Blocks {
		if b.NamesEpoch() {
			t.Blocks[i] = b.in(e)
		}
	}
	return t
}

// NamesEpoch reports whether b differs from epoch to epoch.
func (b Block) NamesEpoch() bool { return slices.ContainsFunc(b.Lines, Line.namesEpoch) }

func (l Line) namesEpoch() bool {
	return l.Mark.namesEpoch() || slices.ContainsFunc(l.Conds, Cond.namesEpoch)
}

func (c Cond) namesEpoch() bool { return c.Key == KeyMark && c.Mask == epochMask }

// namesEpoch reports whether m stamps connections with the epoch: nothing else
// touches these bits.
func (m MarkOp) namesEpoch() bool { return m != (MarkOp{}) && m.And&epochMask == 0 }

func (b Block) in(e Epoch) Block {
	b.Lines = slices.Clone(b.Lines)
	for i := range b.Lines {
		l := &b.Lines[i]
		if l.Mark.namesEpoch() {
			l.Mark.Or = l.Mark.Or&^epochMask | e.Mark()
		}
		if !slices.ContainsFunc(l.Conds, Cond.namesEpoch) {
			continue
		}
		l.Conds = slices.Clone(l.Conds)
		for j := range l.Conds {
			if c := &l.Conds[j]; c.namesEpoch() {
				c.First, c.Last = e.Mark(), e.Mark()
			}
		}
	}
	return b
}
