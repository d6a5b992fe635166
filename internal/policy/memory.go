package policy

import (
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// What a World has worked out it keeps, and it must never take anything from
// memory that the objects have left behind. There is one rule for that:
//
//	objects ──Apply──▶ cells ──settle──▶ cells ──▶ what was worked out from them
//
// Whatever a result was worked out from is a cell, and each cell knows when it
// changed last. A result lists its cells, with the time at which it was worked
// out: it holds as long as none of them has changed since. Apply moves the time,
// and says of the cells nearest to the objects which may have changed; settle,
// before anything is taken from memory, brings all others up to date, each after
// those it depends on. A cell that is forgotten counts as changed for ever.

// A cell is something that others are worked out from.
type cell struct {
	changed uint64 // when it changed last
	seen    uint64 // by which walk over cells; see World.walk
}

// never is later than everything.
const never = math.MaxUint64

// forget makes whatever was worked out from c out of date, for good: c is not
// kept up to date any more.
func (c *cell) forget() { c.changed = never }

// A basis is what something was worked out from, and when.
type basis struct {
	at    uint64
	cells []*cell
}

// holds reports whether none of the cells has changed since.
func (b *basis) holds() bool {
	for _, c := range b.cells {
		if c.changed > b.at {
			return false
		}
	}
	return true
}

// walk returns a number that no walk over cells had before.
func (w *World) walk() uint64 {
	w.walks++
	return w.walks
}

// A Firewall is the rule set of one target, as Compile gives it, with what it was
// worked out from.
type Firewall struct {
	Rules  ruleset.RuleSet
	target Target
	basis
}

// Firewall returns the firewall of t. That is last, which may be nil, if it is
// still right: so a caller that passes what it got before sees by comparing the
// pointers whether anything can have changed.
func (w *World) Firewall(t Target, last *Firewall) *Firewall {
	w.settle()
	if last != nil && last.holds() && last.target.equal(&t) {
		return last
	}
	c := compiler{World: w, serial: w.walk()}
	return &Firewall{Rules: c.compile(&t), target: t, basis: basis{at: w.now, cells: c.cells}}
}

// Keep forgets what was worked out for others than these. It changes no result;
// without it a World that is used for long remembers the policies of pods that
// went. Nil is nobody's.
func (w *World) Keep(these iter.Seq[*Firewall]) {
	w.settle()
	w.fold()
	mark := w.walk()
	for f := range these {
		if f == nil {
			continue
		}
		for _, c := range f.cells {
			c.seen = mark
		}
	}
	for key, e := range w.egresses {
		if e.seen != mark {
			e.forget()
			delete(w.egresses, key)
			continue
		}
		for _, c := range e.cells {
			c.seen = mark
		}
	}
	for key, s := range w.sides {
		if s.seen != mark {
			delete(w.sides, key)
		}
	}
	for key, g := range w.gatherings {
		if g.seen != mark {
			w.dismiss(g)
			delete(w.gatherings, key)
		}
	}
	if w.doors != nil {
		w.doors.keep(mark)
	}
}

func (t *Target) equal(u *Target) bool {
	return t.Pod.equal(&u.Pod) && slices.Equal(t.Addresses, u.Addresses) && slices.Equal(t.Node, u.Node) &&
		t.NodeEgressByPolicy == u.NodeEgressByPolicy && t.Adopted == u.Adopted && t.RawSockets == u.RawSockets && t.Owned == u.Owned
}

// equal reports whether no rule can tell p from q.
func (p *Pod) equal(q *Pod) bool {
	return p.Namespace == q.Namespace && p.HostNetwork == q.HostNetwork && maps.Equal(p.Labels, q.Labels) &&
		slices.Equal(p.Addresses, q.Addresses) && slices.Equal(p.Ports, q.Ports)
}
