package attack

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// A pod speaks with its own addresses, whatever policy says: also where nothing
// else is restricted.
func TestForgedSource(t *testing.T) {
	t.Parallel()
	wage(t, newField(t), sourceAttacks(), "open", "narrow")
}

// dns is what every policy here but jail's allows.
const dns = 53

// The victims whose addresses are forged.
var (
	another4 = netip.MustParseAddr("10.1.0.200")
	another6 = netip.MustParseAddr("fd00:1::200")
)

// forged is a datagram to the neighbour from another pod.
func forged(f *field, v6 bool, token []byte) []byte {
	if v6 {
		return datagram(netip.AddrPortFrom(another6, dns), netip.AddrPortFrom(f.neighbour.v6, dns), token)
	}
	return datagram(netip.AddrPortFrom(another4, dns), netip.AddrPortFrom(f.neighbour.v4, dns), token)
}

// sourceAttacks forge addresses of IP, ARP and neighbour discovery.
func sourceAttacks() []attack {
	raw := []int{intruder.NetRaw}
	var all []attack
	add := func(name string, needs []int, act func(*field, *pod, []byte) intruder.Act) {
		all = append(all, attack{name: name, needs: needs, act: act})
	}
	// sent is an attack by a frame.
	sent := func(name string, kind uint16, build func(*field, *pod, []byte) []byte) {
		add(name, raw, func(f *field, p *pod, token []byte) intruder.Act {
			return frame{kind: unix.SOCK_RAW, told: kind}.to(f, build(f, p, token))
		})
	}
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: " over IPv4", true: " over IPv6"}[v6]
		kind := map[bool]uint16{false: etherIPv4, true: etherIPv6}[v6]
		sent("another's address in a frame"+family, kind, func(f *field, p *pod, token []byte) []byte {
			return ether(f.neighbour.mac, p.mac, kind, forged(f, v6, token))
		})
		sent("another's address below a priority tag"+family, etherVLAN, func(f *field, p *pod, token []byte) []byte {
			return join(f.neighbour.mac, p.mac, be16(etherVLAN), be16(0), be16(kind), forged(f, v6, token))
		})
		add("another's address in a raw packet"+family, raw, func(f *field, _ *pod, token []byte) intruder.Act {
			return acts(withHeader(f.neighbour.own(v6), forged(f, v6, token)))
		})
		add("another's address by IP_TRANSPARENT"+family, raw, func(f *field, _ *pod, token []byte) intruder.Act {
			s := plain(netip.AddrPortFrom(f.neighbour.own(v6), dns), transparent(v6), token)
			s.Bind = netip.AddrPortFrom(map[bool]netip.Addr{false: another4, true: another6}[v6], 4444)
			return acts(s)
		})
		all = append(all, attack{name: "another's address added to eth0" + family, needs: []int{intruder.NetAdmin}, damage: true,
			act: func(f *field, _ *pod, token []byte) intruder.Act {
				s := plain(netip.AddrPortFrom(f.neighbour.own(v6), dns), nil, token)
				s.Bind = netip.AddrPortFrom(map[bool]netip.Addr{false: another4, true: another6}[v6], 0)
				return intruder.Act{
					Script: fmt.Sprintf("ip addr replace %s/24 dev eth0; ip addr replace %s/64 dev eth0 nodad", another4, another6),
					Sends:  []intruder.Send{s},
				}
			}})
	}
	sent("IPv4 without a source", etherIPv4, func(f *field, p *pod, token []byte) []byte {
		return ether(f.neighbour.mac, p.mac, etherIPv4, datagram(netip.AddrPortFrom(netip.IPv4Unspecified(), 68), netip.AddrPortFrom(f.neighbour.v4, dns), token))
	})
	return append(all, linkAttacks()...)
}

func transparent(v6 bool) []intruder.Option {
	if v6 {
		return []intruder.Option{{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_TRANSPARENT, Int: 1}}
	}
	return []intruder.Option{{Level: unix.IPPROTO_IP, Name: unix.IP_TRANSPARENT, Int: 1}}
}

// linkAttacks tell the neighbour lies about who is where. The token is padding.
func linkAttacks() []attack {
	raw := []int{intruder.NetRaw}
	var all []attack
	sent := func(name string, kind uint16, build func(*field, *pod, []byte) []byte) {
		all = append(all, attack{name: name, needs: raw, act: func(f *field, p *pod, token []byte) intruder.Act {
			return frame{kind: unix.SOCK_RAW, told: kind}.to(f, join(build(f, p, token), token))
		}})
	}
	arps := func(name string, op byte, who netip.Addr) {
		sent(name, etherARP, func(f *field, p *pod, _ []byte) []byte {
			return ether(f.neighbour.mac, p.mac, etherARP, arp(op, p.mac, who, f.neighbour.mac, f.neighbour.v4))
		})
	}
	arps("ARP reply for the router", 2, lab.Gateway4)
	arps("ARP reply for another pod", 2, another4)
	arps("ARP request as the router", 1, lab.Gateway4)
	sent("ARP reply below a priority tag", etherVLAN, func(f *field, p *pod, _ []byte) []byte {
		return join(f.neighbour.mac, p.mac, be16(etherVLAN), be16(0), be16(etherARP), arp(2, p.mac, lab.Gateway4, f.neighbour.mac, f.neighbour.v4))
	})
	// messages are ICMPv6, in a frame and from a raw socket.
	messages := func(name string, build func(f *field, p *pod, from netip.Addr, token []byte) []byte, forgedFrom netip.Addr) {
		sent(name+" in a frame", etherIPv6, func(f *field, p *pod, token []byte) []byte {
			return ether(f.neighbour.mac, p.mac, etherIPv6, packet6(forgedFrom, f.neighbour.v6, protoICMPv6, build(f, p, forgedFrom, token)))
		})
		all = append(all, attack{name: name + " from a raw socket", needs: raw, act: func(f *field, p *pod, token []byte) intruder.Act {
			s := ofProtocol(f.neighbour.v6, protoICMPv6, build(f, p, p.v6, token))
			s.Options = []intruder.Option{{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_UNICAST_HOPS, Int: 255}}
			return acts(s)
		}})
	}
	messages("neighbour advertisement for the router", func(f *field, p *pod, from netip.Addr, token []byte) []byte {
		return join(advertisement(from, f.neighbour.v6, lab.Gateway6, p.mac), token)
	}, lab.Gateway6)
	messages("neighbour advertisement for another pod", func(f *field, p *pod, from netip.Addr, token []byte) []byte {
		return join(advertisement(from, f.neighbour.v6, another6, p.mac), token)
	}, another6)
	linkLocal := netip.MustParseAddr("fe80::1")
	messages("router advertisement", func(f *field, _ *pod, from netip.Addr, token []byte) []byte {
		return icmp6(from, f.neighbour.v6, 134, 0, []byte{64, 0, 7, 8}, make([]byte, 8), token)
	}, linkLocal)
	messages("ICMPv6 redirect", func(f *field, p *pod, from netip.Addr, token []byte) []byte {
		return icmp6(from, f.neighbour.v6, 137, 0, make([]byte, 4), p.v6.AsSlice(), lab.World6.AsSlice(), token)
	}, linkLocal)
	return all
}

// A pod that takes its neighbour's address for its own does not get in where the
// neighbour is admitted. Behind podwall it can't even send so.
func TestImpersonation(t *testing.T) {
	t.Parallel()
	f := newField(t)
	friend := f.unprotected(t)
	must(t, f.WriteManifest("friend.yaml", fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: club, name: members}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: %s/32}}]}]
`, friend.v4)))
	club := f.protected(t, "club")
	at := netip.AddrPortFrom(club.v4, 8080)
	socket, err := club.ListenPacket("udp", at.String())
	must(t, err)
	t.Cleanup(func() { _ = socket.Close() })
	// admitted reports whether what p sends as from reaches the socket.
	admitted := func(p *pod, from netip.Addr) bool {
		token := newToken()
		fr := frame{kind: unix.SOCK_RAW, told: etherIPv4}.to(f, ether(club.mac, p.mac, etherIPv4,
			datagram(netip.AddrPortFrom(from, 4444), at, token)))
		_ = p.act(t, fr, []int{intruder.NetRaw})
		must(t, socket.SetReadDeadline(time.Now().Add(silence)))
		for b := make([]byte, 100); ; { // what came too late for an earlier call comes first
			n, _, err := socket.ReadFrom(b)
			if err != nil || bytes.Equal(b[:n], token) {
				return err == nil
			}
		}
	}
	eventually(t, func() error {
		if !admitted(f.free, friend.v4) {
			return errSilence
		}
		return nil
	})
	if admitted(f.free, f.free.v4) {
		t.Error("who is no member is admitted under his own name")
	}
	stranger := f.protected(t, "open")
	for range 3 {
		if admitted(stranger, friend.v4) {
			t.Error("a protected pod is admitted under another's name")
		}
	}
}
