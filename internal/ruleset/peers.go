package ruleset

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"sort"
)

// NewPeers returns the set of all addresses inside prefixes, in the form that
// Peers wants: masked, IPv4-mapped addresses unmapped, sorted, none inside
// another. It does not change its argument. Invalid prefixes match nothing.
func NewPeers(prefixes []netip.Prefix) Peers {
	ps := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if p = canonical(p); p.IsValid() {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return Peers{} // so that nobody is one value, and equal to itself
	}
	slices.SortFunc(ps, ComparePrefix)
	// Prefixes are nested or disjoint, and a container sorts before its
	// contents, so one pass over neighbours is enough.
	kept := ps[:0]
	for _, p := range ps {
		if n := len(kept); n == 0 || !covers(kept[n-1], p) {
			kept = append(kept, p)
		}
	}
	return Peers{Prefixes: slices.Clip(kept)}
}

// UnmarshalJSON reads Peers that anybody wrote, and puts them into the form that
// this package relies on.
func (p *Peers) UnmarshalJSON(b []byte) error {
	if ps, ok := readPrefixes(b); ok {
		*p = NewPeers(ps)
		return nil
	}
	type plain Peers // without this method
	if err := json.Unmarshal(b, (*plain)(p)); err != nil {
		return err
	}
	p.Prefixes = NewPeers(p.Prefixes).Prefixes
	return nil
}

// readPrefixes reads Peers in the one form in which MarshalJSON writes a list: it
// is what a new pod waits for, and may be long. Any other form is not ok.
func readPrefixes(b []byte) ([]netip.Prefix, bool) {
	b, begins := bytes.CutPrefix(b, []byte(`{"prefixes":["`))
	b, ends := bytes.CutSuffix(b, []byte(`"]}`))
	if !begins || !ends {
		return nil, false
	}
	between := []byte(`","`)
	ps := make([]netip.Prefix, 0, bytes.Count(b, between)+1)
	for part := range bytes.SplitSeq(b, between) {
		p, err := netip.ParsePrefix(string(part))
		if err != nil {
			return nil, false
		}
		ps = append(ps, p)
	}
	return ps, true
}

// Everyone is every address of both families.
var Everyone = Peers{Any: true}

// canonical masks p and unmaps ::ffff:0:0/96, or returns the zero Prefix.
func canonical(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return netip.Prefix{}
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// ComparePrefix is the order of Peers: by family, then address, then length: a prefix stands
// directly before everything inside it.
func ComparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// covers reports whether every address of b is in a.
func covers(a, b netip.Prefix) bool {
	return a.Bits() <= b.Bits() && a.Contains(b.Addr())
}

// Contains reports whether addr is one of p. It takes logarithmic time.
func (p Peers) Contains(addr netip.Addr) bool {
	if p.Any {
		return true
	}
	addr = addr.Unmap().WithZone("")
	// Disjoint and sorted: only the last prefix that starts at or before addr can.
	i := sort.Search(len(p.Prefixes), func(i int) bool { return p.Prefixes[i].Addr().Compare(addr) > 0 })
	return i > 0 && p.Prefixes[i-1].Contains(addr)
}

// Covers reports whether every address in q is in p.
func (p Peers) Covers(q Peers) bool {
	if p.Any || q.Any {
		return p.Any
	}
	if len(p.Prefixes) == len(q.Prefixes) && (len(p.Prefixes) == 0 || &p.Prefixes[0] == &q.Prefixes[0]) {
		return true // the same slice, shared by the compiler
	}
	// Both are sorted, so one pass over both is enough: only the last prefix that
	// starts at or before b can cover it.
	i := 0
	for _, b := range q.Prefixes {
		for i < len(p.Prefixes) && p.Prefixes[i].Addr().Compare(b.Addr()) <= 0 {
			i++
		}
		if i == 0 || !covers(p.Prefixes[i-1], b) {
			return false
		}
	}
	return true
}

// Holds reports whether every address of prefixes is in p. It takes logarithmic
// time for each.
func (p Peers) Holds(prefixes []netip.Prefix) bool {
	for _, q := range prefixes {
		i := sort.Search(len(p.Prefixes), func(i int) bool { return p.Prefixes[i].Addr().Compare(q.Addr()) > 0 })
		if !p.Any && (i == 0 || !covers(p.Prefixes[i-1], q)) {
			return false
		}
	}
	return true
}

// family returns the prefixes of one family, as a part of the same slice: IPv4
// sorts before IPv6.
func (p Peers) family(v6 bool) []netip.Prefix {
	i := sort.Search(len(p.Prefixes), func(i int) bool { return p.Prefixes[i].Addr().Is6() })
	if v6 {
		return p.Prefixes[i:]
	}
	return p.Prefixes[:i]
}

// Hosts reports whether every prefix is a single address.
func Hosts(ps []netip.Prefix) bool {
	return !slices.ContainsFunc(ps, func(p netip.Prefix) bool { return !p.IsSingleIP() })
}
