package policy

import (
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/ruleset"
)

// A door is one port of a Service in one address family: where pods meet it, and
// where it leads. It does not change: one that differs is another.
type door struct {
	slot           int // in doors.all
	proto          ruleset.Proto
	vips           []netip.Addr
	port, nodePort uint16
	bits           int              // length of an address of the family
	behind         []netip.AddrPort // endpoints that count, sorted
}

func (d *door) equal(e *door) bool {
	return d.proto == e.proto && slices.Equal(d.vips, e.vips) && d.port == e.port && d.nodePort == e.nodePort &&
		d.bits == e.bits && slices.Equal(d.behind, e.behind)
}

// A frontend is one place where pods meet a door.
type frontend struct {
	addr  netip.Addr
	proto ruleset.Proto
	port  uint16
}

// A nodePort is where pods meet a door on nodes' addresses of one length.
type nodePort struct {
	bits  int
	proto ruleset.Proto
	port  uint16
}

// doors are those of all Services.
type doors struct {
	of     map[Name][]*door // by Service
	slots  int              // doors have lower ones
	free   []int            // slots
	at     map[frontend][]*door
	ports  map[nodePort][]*door
	behind map[netip.Addr]*backs
	nodes  []netip.Addr // of all nodes, sorted

	ajar       map[Name]bool // Services whose doors may be others than they were
	renumbered bool          // so may be the nodes' addresses

	// What the present settling has found to be otherwise.
	gone, new []*door
	moved     bool // the nodes' addresses
}

// backs are the doors that lead to an address. The cell changes with them.
type backs struct {
	cell
	doors []*door
}

// findDoors returns the doors of all Services, and sees to it that they are kept
// up to date from now on.
func (w *World) findDoors() *doors {
	if w.doors == nil {
		w.doors = &doors{of: make(map[Name][]*door), at: make(map[frontend][]*door), ports: make(map[nodePort][]*door),
			behind: make(map[netip.Addr]*backs), ajar: make(map[Name]bool), renumbered: true}
		for name := range w.services {
			w.doors.ajar[name] = true
		}
		w.doors.settle(w)
	}
	return w.doors
}

// rehung says that the doors of a Service may be others.
func (w *World) rehung(service Name) {
	if w.doors != nil {
		w.doors.ajar[service] = true
	}
}

// renumbered says that the nodes' addresses may be others.
func (w *World) renumbered() {
	if w.doors != nil {
		w.doors.renumbered = true
	}
}

// settle brings the doors up to date with the objects.
func (d *doors) settle(w *World) {
	d.gone, d.new, d.moved = nil, nil, false
	if d.renumbered {
		var nodes []netip.Addr
		for _, n := range w.nodes {
			nodes = append(nodes, n.Addresses...)
		}
		nodes = distinct(nodes)
		d.moved, d.nodes, d.renumbered = !slices.Equal(nodes, d.nodes), nodes, false
	}
	for name := range d.ajar {
		d.rehang(name, w.doorsOf(name), w.now)
	}
	clear(d.ajar)
}

// rehang makes a Service's doors these, and leaves those that are the same.
func (d *doors) rehang(service Name, doors []*door, now uint64) {
	left := slices.Clone(d.of[service])
	for i, one := range doors {
		if j := slices.IndexFunc(left, one.equal); j >= 0 {
			doors[i] = left[j]
			left = slices.Delete(left, j, j+1)
			continue
		}
		d.hang(one, now)
	}
	for _, one := range left {
		d.unhang(one, now)
	}
	if d.of[service] = doors; len(doors) == 0 {
		delete(d.of, service)
	}
}

func (d *doors) hang(one *door, now uint64) {
	if n := len(d.free); n > 0 {
		one.slot, d.free = d.free[n-1], d.free[:n-1]
	} else {
		one.slot, d.slots = d.slots, d.slots+1
	}
	for _, f := range one.virtual() {
		d.at[f] = append(d.at[f], one)
	}
	if p := one.onNodes(); p.port != 0 {
		d.ports[p] = append(d.ports[p], one)
	}
	for a := range one.ends() {
		b := d.leadingTo(a)
		b.doors, b.changed = append(b.doors, one), now
	}
	d.new = append(d.new, one)
}

func (d *doors) unhang(one *door, now uint64) {
	d.free = append(d.free, one.slot)
	for _, f := range one.virtual() {
		without(d.at, f, one)
	}
	if p := one.onNodes(); p.port != 0 {
		without(d.ports, p, one)
	}
	for a := range one.ends() {
		b := d.leadingTo(a)
		b.doors = slices.DeleteFunc(b.doors, func(other *door) bool { return other == one })
		b.changed = now
	}
	d.gone = append(d.gone, one)
}

func without[K comparable](m map[K][]*door, key K, one *door) {
	list := slices.DeleteFunc(m[key], func(other *door) bool { return other == one })
	if m[key] = list; len(list) == 0 {
		delete(m, key)
	}
}

// leadingTo returns the doors that lead to a.
func (d *doors) leadingTo(a netip.Addr) *backs {
	b := d.behind[a]
	if b == nil {
		b = &backs{}
		d.behind[a] = b
	}
	return b
}

// keep forgets addresses that no door leads to and the walk mark has not met.
func (d *doors) keep(mark uint64) {
	for a, b := range d.behind {
		if b.seen != mark && len(b.doors) == 0 {
			b.forget()
			delete(d.behind, a)
		}
	}
}

// virtual are the frontends of d at its Service's own addresses.
func (d *door) virtual() []frontend {
	list := make([]frontend, len(d.vips))
	for i, a := range d.vips {
		list[i] = frontend{a, d.proto, d.port}
	}
	return list
}

// onNodes is where pods meet d at nodes' addresses; the port is 0 if nowhere.
func (d *door) onNodes() nodePort { return nodePort{d.bits, d.proto, d.nodePort} }

// ends yields the addresses behind d, each once.
func (d *door) ends() func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for i, b := range d.behind {
			if (i == 0 || d.behind[i-1].Addr() != b.Addr()) && !yield(b.Addr()) {
				return
			}
		}
	}
}

// doorsOf returns the doors of a Service, as it is now.
func (w *World) doorsOf(name Name) []*door {
	s := w.services[name]
	if s == nil {
		return nil
	}
	var list []*door
	for _, p := range s.Ports {
		for _, like := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			d := &door{proto: p.Proto, port: p.Port, nodePort: p.NodePort, bits: like.BitLen()}
			for _, a := range distinct(s.Addresses) {
				if a.BitLen() == d.bits {
					d.vips = append(d.vips, a)
				}
			}
			if len(d.vips) > 0 || d.nodePort != 0 {
				d.behind = live(w.Backends(*s, p, like))
				list = append(list, d)
			}
		}
	}
	return list
}

// live returns the ready ones of list, or all of it if none is ready.
func live(list []Backend) []netip.AddrPort {
	var ready, all []netip.AddrPort
	for _, b := range list {
		all = append(all, b.Addr)
		if b.Ready {
			ready = append(ready, b.Addr)
		}
	}
	if len(ready) > 0 {
		all = ready
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}
