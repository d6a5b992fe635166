package policy

import (
	"net/netip"
	"slices"
)

// places say which pods that are not done have an address. It is one pod nearly
// always, so that is what memory is spent on.
type places struct {
	one  map[netip.Addr]*pod
	more map[netip.Addr][]*pod // the others, where there are several
}

func (l *places) all(a netip.Addr) func(func(*pod) bool) {
	return func(yield func(*pod) bool) {
		p := l.one[a]
		if p == nil || !yield(p) {
			return
		}
		for _, p := range l.more[a] {
			if !yield(p) {
				return
			}
		}
	}
}

func (l *places) add(p *pod) {
	if p.done {
		return // its addresses may be another pod's
	}
	for _, a := range p.plain() {
		if l.one[a] == nil {
			l.one[a] = p
		} else {
			l.more[a] = append(l.more[a], p)
		}
	}
}

func (l *places) remove(p *pod) {
	for _, a := range p.plain() {
		rest := slices.DeleteFunc(slices.Collect(l.all(a)), func(q *pod) bool { return q == p })
		delete(l.one, a)
		delete(l.more, a)
		if len(rest) > 0 {
			l.one[a] = rest[0]
		}
		if len(rest) > 1 {
			l.more[a] = rest[1:]
		}
	}
}
