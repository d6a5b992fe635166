package events

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ip4 = "4500 003c 0001 4000 40%s 0000 0a000002 0a000003"
	ip6 = "60000000 0014 %s 40 fd000000000000000000000000000002 fd000000000000000000000000000003"
)

func TestDecode(t *testing.T) {
	a4, b4 := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	a6, b6 := netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::3")
	v4 := func(proto, rest string) string { return strings.Replace(ip4, "%s", proto, 1) + rest }
	v6 := func(next, rest string) string { return strings.Replace(ip6, "%s", next, 1) + rest }
	tests := []struct {
		name, packet string
		want         packet
	}{
		{"a SYN", v4("06", "9c40 0050 00000001 00000000 5002 ffff 0000 0000"),
			packet{src: a4, dst: b4, srcPort: 40000, dstPort: 80, protocol: "TCP", proto: ruleset.TCP, flags: "SYN", length: 60}},
		{"all eight flags", v4("06", "9c40 0050 00000001 00000000 50ff"),
			packet{src: a4, dst: b4, srcPort: 40000, dstPort: 80, protocol: "TCP", proto: ruleset.TCP, flags: "FIN,SYN,RST,PSH,ACK,URG,ECE,CWR", length: 60}},
		{"an echo request", v4("01", "0800"), packet{src: a4, dst: b4, protocol: "ICMP", proto: 1, icmp: &api.ICMP{Type: 8}, length: 60}},
		{"a later fragment has no ports", strings.Replace(v4("11", "9c40 0035"), "4000 40", "0010 40", 1),
			packet{src: a4, dst: b4, protocol: "UDP", proto: ruleset.UDP, length: 60}},
		{"UDP over IPv6", v6("11", "9c40 0035"), packet{src: a6, dst: b6, srcPort: 40000, dstPort: 53, protocol: "UDP", proto: ruleset.UDP, length: 60}},
		{"behind hop-by-hop and destination options", v6("00", "3c00 0000 00000000 1100 0000 00000000 9c40 0035 0000 0000"),
			packet{src: a6, dst: b6, srcPort: 40000, dstPort: 53, protocol: "UDP", proto: ruleset.UDP, length: 60}},
		{"the first fragment of IPv6", v6("2c", "1100 0001 00000000 9c40 0035 0000 0000"),
			packet{src: a6, dst: b6, srcPort: 40000, dstPort: 53, protocol: "UDP", proto: ruleset.UDP, length: 60}},
		{"a later fragment of IPv6", v6("2c", "1100 0008 00000000 9c40 0035 0000 0000"),
			packet{src: a6, dst: b6, protocol: "UDP", proto: ruleset.UDP, length: 60}},
		{"packet too big", v6("3a", "0200 0000"), packet{src: a6, dst: b6, protocol: "ICMPv6", proto: 58, icmp: &api.ICMP{Type: 2}, length: 60}},
		{"a protocol without a name", v4("2f", ""), packet{src: a4, dst: b4, protocol: "47", proto: 47, length: 60}},
		{"half a header", "4500 003c", packet{protocol: "short IPv4", length: 4}},
		{"nothing", "", packet{protocol: "nothing"}},
		{"no IP at all", "ff", packet{protocol: "IP version 15", length: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decode(unhex(t, tt.packet))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(packet{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("decode (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeFrame(t *testing.T) {
	const link = "020000000001 020000000002 "
	tests := []struct{ name, frame, protocol, src, dst string }{
		{"IPv4", link + "0800" + strings.Replace(ip4, "%s", "11", 1), "UDP", "10.0.0.2", "10.0.0.3"},
		{"ARP", link + "0806 0001 0800 06 04 0001 020000000002 0a000002 000000000000 0a000003", "ARP", "10.0.0.2", "10.0.0.3"},
		{"below a VLAN tag", link + "8100 0001 0800", "ethertype 0x8100", "invalid IP", "invalid IP"},
		{"half", "0200", "short frame", "invalid IP", "invalid IP"},
	}
	for _, tt := range tests {
		p := decodeFrame(unhex(t, tt.frame))
		if p.protocol != tt.protocol || p.src.String() != tt.src || p.dst.String() != tt.dst {
			t.Errorf("%s: %+v", tt.name, p)
		}
	}
}

// Whatever a pod sends, or a process there sends in the kernel's name, reading it
// does no harm, and gives an event that can be written.
func FuzzMessages(f *testing.F) {
	f.Add(unhex(f, "2400 0000 0004 0000 0000 0000 0000 0000 0100 24fd 0800 0100 0800 0000 0800 0a00 65746830"))
	f.Add(unhex(f, "1400 0000 0300 0000 0000 0000 0000 0000 00000000"))
	t0 := target{attachment: api.Attachment{Namespace: "shop", Name: "api"}}
	t0.change("1", ruleset.RuleSet{Log: ruleset.Logging{Drops: true}})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parse(b)
		for i := range list {
			e := t0.event(&list[i], "drop/forged", time.Unix(1, 0))
			r := ring{path: "unused"}
			if r.add(record{0, e}); r.waiting != 1 {
				t.Errorf("event can't be written: %+v", e)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(unhex(f, strings.Replace(ip4, "%s", "06", 1)+"9c40 0050 00000001 00000000 5002"))
	f.Add(unhex(f, strings.Replace(ip6, "%s", "00", 1)+"3c00 0000 00000000 1100 0000 00000000 9c40 0035"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range []packet{decode(b), decodeFrame(b)} {
			if p.protocol == "" || p.src.IsValid() != p.dst.IsValid() {
				t.Errorf("decode of %x: %+v", b, p)
			}
		}
	})
}
