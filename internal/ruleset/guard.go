package ruleset

import (
	"net/netip"
	"slices"
)

// Guard returns what stands at the attachment's device itself, where also
// packets pass that never met the hooks of Lower: a table of family netdev, with
// one block at the device's egress. Without anything to guard it has none.
//
// A process with CAP_NET_RAW writes whole frames to the device. These never met
// a route, which every packet of the IP stack has; so where egress is restricted
// only routed packets leave, and the kernel's own ARP. And on every attachment
// whose addresses are known, IP and ARP leave only with one of them as source,
// below no VLAN tag, which some receivers look through; IPv6 always by the IP
// stack, so that nobody speaks neighbour discovery past the rules on packets.
//
// Nothing is asked of the packet's protocol as the kernel notes it, since for
// whole frames the sender says what that is; the frame's own type counts.
func (rs RuleSet) Guard(iface string) Table {
	t := Table{Family: Netdev, Interface: iface}
	restricted := !rs.open(Egress)
	if rs.RawSockets || (!restricted && len(rs.Addresses) == 0) {
		return t
	}
	counter, refused := t.counter(GuardCounter(iface)), drop()
	var logs []Block
	if rs.Log.Drops {
		logs = []Block{t.logged(Reason{Cause: CauseGuard}, rs.Log, HiddenGuardCounter(iface), drop())}
		refused = goTo(logs[0].Name)
	}
	var lines, arp []Line // what there is most of comes first
	if restricted {
		arp = []Line{{Conds: []Cond{is(KeyEtherType, etherARP), {Key: KeyFromProcess}},
			Counter: counter, Verdict: refused, Comment: "ARP is the kernel's"}}
	}
	for _, s := range sources(rs.Addresses) {
		if s.ether == etherARP {
			arp = append(arp, s.line(false))
		} else {
			lines = append(lines, s.line(restricted || s.ether == etherIPv6))
		}
	}
	lines = append(lines, arp...)
	if !restricted {
		// Frames that carry neither IP nor ARP have no source to check.
		for _, e := range []uint32{etherARP, etherIPv4, etherIPv6, etherVLAN, etherQinQ} {
			lines = append(lines, Line{Conds: []Cond{is(KeyEtherType, e)}, Counter: counter, Verdict: refused, Comment: "forged source"})
		}
		lines = append(lines, Line{Verdict: accept()})
	} else {
		lines = append(lines, Line{Counter: counter, Verdict: refused, Comment: "past the IP stack, or forged source"})
	}
	t.Blocks = append([]Block{{Name: Prefix(iface) + "guard", Hook: DeviceEgress, Lines: lines}}, logs...)
	return t
}

// GuardCounter is the name of the counter of the frames that the guard stopped.
func GuardCounter(iface string) string { return Prefix(iface) + "guard/drop" }

// ForgedCounter is the name of the counter of the packets that the IP stack sent
// and that say what they have no business to say.
func ForgedCounter(iface string) string { return Prefix(iface) + "forged" }

// The types of an Ethernet frame.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

// A source is a range of addresses that may leave, in one type of frame.
type source struct {
	ether uint32
	key   Key
	addr  netip.Prefix // the zero Prefix is any
	about string
}

// sources returns those of an attachment with the given addresses; without any,
// all there are.
func sources(own []netip.Addr) []source {
	if len(own) == 0 {
		return []source{{ether: etherARP}, {ether: etherIPv4}, {ether: etherIPv6}}
	}
	var list []source
	for _, a := range sortedAddrs(own) {
		p := netip.PrefixFrom(a, a.BitLen())
		if a.Is6() {
			list = append(list, source{etherIPv6, KeySource6, p, ""})
			continue
		}
		list = append(list, source{etherARP, KeyARPSender, p, "ARP"}, source{etherIPv4, KeySource4, p, ""})
	}
	// What IPv6 itself needs on any link.
	return append(list,
		source{etherIPv6, KeySource6, netip.MustParsePrefix("fe80::/10"), "link-local"},
		source{etherIPv6, KeySource6, netip.MustParsePrefix("::/128"), "no address yet"})
}

func sortedAddrs(own []netip.Addr) []netip.Addr {
	addrs := make([]netip.Addr, len(own))
	for i, a := range own {
		addrs[i] = a.Unmap().WithZone("")
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// line accepts s, if routed only from the IP stack. ARP has no route even then.
func (s source) line(routed bool) Line {
	var conds []Cond
	if routed {
		conds = append(conds, Cond{Key: KeyRouted})
	}
	conds = append(conds, is(KeyEtherType, s.ether))
	comment := s.about
	if s.addr.IsValid() {
		conds = append(conds, Cond{Key: s.key, Addr: s.addr})
		if comment != "" {
			comment += ", "
		}
		comment += elementText(s.addr)
	}
	return Line{Conds: conds, Verdict: accept(), Comment: comment}
}
