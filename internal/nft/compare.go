package nft

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/podwall/podwall/internal/ruleset"
)

type list struct {
	first *netip.Prefix
	n     int
}

type lists struct {
	have, want       *netip.Prefix // the first elements
	haveLen, wantLen int
}

type difference struct {
	once     sync.Once
	add, del []netip.Prefix
}

// short is the length up to which lists are compared again and again.
const short = 32

// between returns what turns have into want, both of which are canonical.
func (c *Round) between(have, want []netip.Prefix) (add, del []netip.Prefix) {
	if sameSlice(have, want) {
		return nil, nil
	}
	if c == nil || len(have) == 0 || len(want) == 0 || len(have)+len(want) < short {
		return walk(have, want)
	}
	d := c.difference(lists{&have[0], &want[0], len(have), len(want)})
	d.once.Do(func() { d.add, d.del = walk(have, want) })
	return d.add, d.del
}

func (c *Round) difference(at lists) *difference {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.lists[at]
	if d == nil {
		if c.lists == nil {
			c.lists = map[lists]*difference{}
		}
		d = &difference{}
		c.lists[at] = d
	}
	return d
}

// walk goes along both lists once.
func walk(have, want []netip.Prefix) (add, del []netip.Prefix) {
	for len(have) > 0 && len(want) > 0 {
		if have[0] == want[0] { // as nearly all are
			have, want = have[1:], want[1:]
		} else if ruleset.ComparePrefix(have[0], want[0]) < 0 {
			del, have = append(del, have[0]), have[1:]
		} else {
			add, want = append(add, want[0]), want[1:]
		}
	}
	return slices.Clip(append(add, want...)), slices.Clip(append(del, have...))
}

// hosts is ruleset.Hosts.
func (c *Round) hosts(ps []netip.Prefix) bool {
	if c == nil || len(ps) < short {
		return ruleset.Hosts(ps)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := list{&ps[0], len(ps)}
	single, known := c.single[at]
	if !known {
		if c.single == nil {
			c.single = map[list]bool{}
		}
		single = ruleset.Hosts(ps)
		c.single[at] = single
	}
	return single
}

// covers reports whether every address of q is in p.
func (c *Round) covers(p, q ruleset.Peers) bool {
	if p.Any || q.Any {
		return p.Covers(q)
	}
	_, gone := c.between(q.Prefixes, p.Prefixes)
	return ruleset.Peers{Prefixes: p.Prefixes}.Holds(gone)
}
