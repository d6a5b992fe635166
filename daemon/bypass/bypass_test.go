package bypass

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"go.uber.org/goleak"

	"github.com/podwall/podwall/internal/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFind(t *testing.T) {
	const (
		eth0 = "ip link add eth0 type veth peer name peer0; ip link set eth0 up"
		tap  = "; ip tuntap add tap0_kata mode tap; ip link set tap0_kata up"
		all  = "protocol all u32 match u8 0 0"
		to   = " action mirred egress redirect dev tap0_kata"
	)
	filter := func(qdisc, match string) string {
		parent := map[string]string{"ingress": "parent ffff:", "clsact": "ingress"}[qdisc]
		return eth0 + tap + "; tc qdisc add dev eth0 " + qdisc + "; tc filter add dev eth0 " + parent + " " + match
	}
	tests := []struct{ name, commands, want string }{
		{"a pod", eth0, ""},
		{"no interface at all", "true", ""},
		{"a tap device on its own", eth0 + tap, ""},
		{"a tap device without eth0", "true" + tap, ""},
		{"an ingress qdisc on its own", eth0 + tap + "; tc qdisc add dev eth0 ingress", ""},
		{"Kata's filter", filter("ingress", all+to), "tap0_kata"},
		{"Kata's filter on clsact", filter("clsact", all+to), "tap0_kata"},
		{"after another action", filter("ingress", all+" action mirred egress mirror dev peer0"+to), "tap0_kata"},
		{"a filter that only classifies", filter("ingress", all+" flowid 1:1"), ""},
		{"a copy leaves the packet its way", filter("ingress", all+" action mirred egress mirror dev tap0_kata"), ""},
		{"a redirect to what is no tap device", filter("ingress", all+" action mirred egress redirect dev peer0"), ""},
		{"a redirect elsewhere in the namespace", eth0 + tap +
			"; tc qdisc add dev peer0 ingress; tc filter add dev peer0 parent ffff: " + all + to, ""},
		{"macvtap", eth0 + "; ip link add link eth0 name mv0 type macvtap", "mv0, a macvtap device upon eth0"},
		{"macvlan", eth0 + "; ip link add link eth0 name m0 type macvlan", "m0, a macvlan device upon eth0"},
		{"macvlan from the outside", "ip link add far0 type veth peer name far1; ip link add link far0 name eth0 type macvlan; ip link add m0 type bridge", ""},
		{"a bridge beside it", eth0 + "; ip link add b0 type bridge; ip link set peer0 master b0", ""},
		{"a port of a bridge", eth0 + "; ip link add b0 type bridge; ip link set eth0 master b0", "eth0 is a port of b0, a bridge"},
		{"another device's packets", eth0 + "; tc qdisc add dev peer0 clsact; tc filter add dev peer0 egress " + all +
			" action mirred egress redirect dev eth0", "packets of peer0"},
		{"what another device gets", eth0 + "; tc qdisc add dev peer0 ingress; tc filter add dev peer0 parent ffff: " + all +
			" action mirred egress redirect dev eth0", "packets of peer0"},
		{"macvtap upon another", eth0 + "; ip link add link peer0 name mv0 type macvtap", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := netnstest.New(t)
			ns.Run(t, tt.commands)
			for _, when := range []string{"first", "again"} {
				got, err := Find(ns.FD(), "eth0")
				if err != nil || (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
					t.Errorf("%s time: %q, %v; want %q", when, got, err, tt.want)
				}
			}
		})
	}
}

func TestFindWantsANamespace(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if how, err := Find(int(f.Fd()), "eth0"); err == nil {
		t.Errorf("%s is a namespace: %q", os.DevNull, how)
	}
}

// Not every kernel has every kind of filter, so these are written by hand.
func TestKindsOfFilters(t *testing.T) {
	parms := make([]byte, sizeofMirred)
	binary.NativeEndian.PutUint32(parms[20:], egressRedirect)
	binary.NativeEndian.PutUint32(parms[24:], 7)
	nested := func(typ uint16, fill func(*netlink.AttributeEncoder)) func(*netlink.AttributeEncoder) {
		return func(e *netlink.AttributeEncoder) {
			e.Nested(typ, func(e *netlink.AttributeEncoder) error { fill(e); return nil })
		}
	}
	redirect := nested(1, func(e *netlink.AttributeEncoder) {
		e.String(tcaActKind, "mirred")
		nested(tcaActOptions, func(e *netlink.AttributeEncoder) { e.Bytes(tcaMirredParms, parms) })(e)
	})
	for kind, attr := range actions {
		e := netlink.NewAttributeEncoder()
		e.String(tcaKind, kind)
		nested(tcaOptions, nested(attr, redirect))(e)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseFilter(append(make([]byte, sizeofTCMsg), b...)); err != nil || !slices.Equal(got, []uint32{7}) {
			t.Errorf("%s redirects to %v, %v; want 7", kind, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Add(append(make([]byte, 20), "\x08\x00\x01\x00u32\x00\x08\x00\x02\x00\x04\x00\x07\x00"...))
	f.Add(append(make([]byte, 16), "\x09\x00\x03\x00eth0\x00\x00\x00\x00"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever the kernel may say, it is read or refused.
		if l, err := parseLink(b); err == nil && len(b) < 16 {
			t.Errorf("%d bytes are interface %+v", len(b), l)
		}
		if targets, err := parseFilter(b); err == nil && len(targets)*sizeofMirred > len(b) {
			t.Errorf("%d bytes redirect to %v", len(b), targets)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	ns := netnstest.New(b)
	if _, err := ns.RunErr("ip link add eth0 type veth peer name peer0"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Find(ns.FD(), "eth0"); err != nil {
			b.Fatal(err)
		}
	}
}
