package ruleset_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// prefixes reads a list of prefixes.
func prefixes(list string) []netip.Prefix {
	var ps []netip.Prefix
	for s := range strings.FieldsSeq(list) {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// list is the opposite of prefixes.
func list(ps []netip.Prefix) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, " ")
}

func TestNewPeers(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"host bits are masked", "10.1.2.3/8 fd00::1/16", "10.0.0.0/8 fd00::/16"},
		{"IPv4 sorts before IPv6", "fd00::3/128 10.0.0.3/32", "10.0.0.3/32 fd00::3/128"},
		{"the same twice is one", "10.0.0.3/32 10.0.0.3/32", "10.0.0.3/32"},
		{"inside another is gone", "10.0.0.3/32 10.0.0.0/24 10.0.0.0/8 10.255.0.0/16", "10.0.0.0/8"},
		{"everything holds the rest of its family", "10.0.0.3/32 0.0.0.0/0 fd00::3/128", "0.0.0.0/0 fd00::3/128"},
		{"neighbours stay apart", "10.0.1.0/24 10.0.0.0/24", "10.0.0.0/24 10.0.1.0/24"},
		{"mapped addresses are IPv4", "::ffff:10.0.0.3/128 ::ffff:10.1.0.0/112", "10.0.0.3/32 10.1.0.0/16"},
		{"all mapped addresses are all of IPv4", "::ffff:0.0.0.0/96", "0.0.0.0/0"},
		{"a block around the mapped ones is IPv6", "::/64", "::/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := prefixes(tt.in)
			before := slices.Clone(in)
			if got := list(ruleset.NewPeers(in).Prefixes); got != tt.want {
				t.Errorf("NewPeers(%s) = %s, want %s", tt.in, got, tt.want)
			}
			if !slices.Equal(in, before) {
				t.Errorf("NewPeers changed its argument to %s", list(in))
			}
		})
	}
}

func TestNewPeersDropsInvalid(t *testing.T) {
	if got := ruleset.NewPeers([]netip.Prefix{{}, netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)}); len(got.Prefixes) > 0 {
		t.Errorf("NewPeers = %v, want nobody", got)
	}
}

func TestPeersContains(t *testing.T) {
	some := ruleset.NewPeers(prefixes("10.0.0.3/32 10.1.0.0/16 fd00::/64"))
	tests := []struct {
		name  string
		peers ruleset.Peers
		addr  string
		want  bool
	}{
		{"zero holds nobody", ruleset.Peers{}, "10.0.0.3", false},
		{"everyone holds IPv4", ruleset.Everyone, "10.0.0.3", true},
		{"everyone holds IPv6", ruleset.Everyone, "fd00::3", true},
		{"single address", some, "10.0.0.3", true},
		{"one before", some, "10.0.0.2", false},
		{"one after", some, "10.0.0.4", false},
		{"first of a block", some, "10.1.0.0", true},
		{"last of a block", some, "10.1.255.255", true},
		{"after a block", some, "10.2.0.0", false},
		{"IPv6 block", some, "fd00::ffff", true},
		{"outside IPv6 block", some, "fd00:0:0:1::", false},
		{"mapped address is IPv4", some, "::ffff:10.0.0.3", true},
		{"zone does not matter", some, "fd00::3%eth0", true},
		{"all of IPv4 holds no IPv6", ruleset.NewPeers(prefixes("0.0.0.0/0")), "::1", false},
		{"all of IPv6 holds no IPv4", ruleset.NewPeers(prefixes("::/0")), "10.0.0.3", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.peers.Contains(netip.MustParseAddr(tt.addr)); got != tt.want {
				t.Errorf("%v contains %s: %v, want %v", tt.peers, tt.addr, got, tt.want)
			}
		})
	}
	if some.Contains(netip.Addr{}) {
		t.Error("some peers contain the zero Addr")
	}
}

// Covers and Contains, against walking the list.
func TestPeersLikeAList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for range 2000 {
		p, q := randomPeers(r), randomPeers(r)
		for _, s := range addrs {
			a := netip.MustParseAddr(s)
			want := p.Any || slices.ContainsFunc(p.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
			if got := p.Contains(a); got != want {
				t.Fatalf("%v contains %s: %v, want %v", p, a, got, want)
			}
		}
		want := p.Any || !q.Any
		for _, b := range q.Prefixes {
			want = want && (p.Any || slices.ContainsFunc(p.Prefixes, func(a netip.Prefix) bool {
				return a.Bits() <= b.Bits() && a.Contains(b.Addr())
			}))
		}
		if got := p.Covers(q); got != want {
			t.Fatalf("%v covers %v: %v, want %v", p, q, got, want)
		}
	}
}
