package kubepolicy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

var errZone = errors.New("an address with a zone means something on one link only")

// cidr reads a CIDR. Bits behind the mask are ignored, as Kubernetes does.
func (r *reader) cidr(field, s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		r.fail(field, tidy("netip.ParsePrefix", s, err))
		return netip.Prefix{}, false
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// address adds the address s to list. An empty s is one not assigned yet.
func (r *reader) address(list []netip.Addr, field, s string) []netip.Addr {
	if s == "" {
		return list
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		r.fail(field, tidy("ParseAddr", s, err))
		return list
	case a.Zone() != "":
		r.fail(field, fmt.Errorf("%q: %w", s, errZone))
		return list
	}
	if a = a.Unmap(); slices.Contains(list, a) {
		return list
	}
	return append(list, a)
}

// tidy is err without the name of the function it comes from.
func tidy(function, s string, err error) error {
	return fmt.Errorf("%.80q: %s", s, strings.TrimPrefix(err.Error(), fmt.Sprintf("%s(%q): ", function, s)))
}

// within reports whether every address of b is in a.
func within(a, b netip.Prefix) bool {
	return a.Bits() <= b.Bits() && a.Contains(b.Addr())
}

// without returns the prefixes that hold the addresses of p that are in none of
// except, in order.
func without(p netip.Prefix, except []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, e := range except {
		if within(e, p) {
			return nil
		}
		if within(p, e) {
			inside = append(inside, e)
		}
	}
	if len(inside) == 0 {
		return []netip.Prefix{p}
	}
	low, high := halves(p)
	return append(without(low, inside), without(high, inside)...)
}

// halves splits p, which must hold more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	b := p.Addr().AsSlice()
	b[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	upper, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(upper, bits)
}
