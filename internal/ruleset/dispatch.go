package ruleset

import (
	"math"
	"slices"
	"strings"
)

const (
	// walked is the number of lines up to which a packet walks them one by one.
	// That reads best, and up to here costs about as much as finding its block.
	walked = 12
	// spread is the number of port segments over which a line may be copied; a
	// line with a wider range is walked, which bounds the table's size.
	spread = 8
	// A block of the tree tells fanout ranges apart, or as many more as it takes for
	// the tree not to be deeper than levels: the kernel follows 16 blocks.
	fanout = 8
	levels = 3
)

// run adds lines whose order does not matter. If they are many, a tree of blocks
// stands before them for each protocol, so that a packet walks only the lines
// for its own port and those for any:
//
//	meta l4proto tcp jump eth0/ingress/policy.0/tcp
//
//	chain eth0/ingress/policy.0/tcp {
//		meta l4proto tcp ct original proto-dst 80-443 jump eth0/ingress/policy.0/tcp/80-443
//
// The tree is made of rules, not of a verdict map: rules change in one instant
// for a packet that is being judged, a map's elements change under it. Where many
// rules are for one port, a map tells them apart by their peers all the same (see
// classify): such maps are changed with the care that sets need.
func (w *walk) run(name string, lines []ruleLine) {
	if len(lines) > walked {
		for _, p := range []Proto{TCP, UDP, SCTP} {
			lines = w.dispatch(name, p, lines)
		}
	}
	plain := make([]Line, len(lines))
	for i, l := range lines {
		plain[i] = l.plain(w.side.port)
	}
	for _, l := range w.classify(w.name(w.side.block(), name), plain) {
		w.line(l)
	}
}

// dispatch adds the tree for one protocol and returns the lines it left out.
func (w *walk) dispatch(name string, proto Proto, lines []ruleLine) []ruleLine {
	segments := segmentsOf(proto, lines)
	var left []ruleLine
	for _, l := range lines {
		first, last := segmentRange(segments, l.ports)
		if l.ports.Proto != proto || l.ports.whole() || last-first > spread {
			left = append(left, l)
			continue
		}
		for i := first; i < last; i++ {
			segments[i].lines = append(segments[i].lines, l.line)
		}
	}
	if len(left) == len(lines) {
		return lines
	}
	root := w.name(w.side.block(), name, strings.ToLower(proto.String()))
	used := slices.DeleteFunc(segments, func(s segment) bool { return len(s.lines) == 0 })
	w.branch(proto, root, root, used, fanOf(len(used)))
	w.line(Line{Conds: []Cond{is(KeyProto, uint32(proto))}, Verdict: jumpTo(root)})
	return left
}

// A segment is a range of ports within which every port meets the same lines.
type segment struct {
	first, last uint16
	lines       []Line
}

// branch adds the block that leads from any port in segments to its lines, and
// what is below it. Each line names the protocol again, because without it nft
// can't read a connection's port.
func (w *walk) branch(proto Proto, root, name string, segments []segment, fan int) {
	at := len(w.ports)
	w.ports = append(w.ports, Block{Name: name})
	var lines []Line
	for group := range slices.Chunk(segments, (len(segments)+fan-1)/fan) {
		first, last := group[0].first, group[len(group)-1].last
		child := root + "/" + rangeText(uint32(first), uint32(last))
		if len(group) == 1 {
			at := len(w.ports)
			w.ports = append(w.ports, Block{Name: child})
			w.ports[at].Lines = w.classify(child, group[0].lines)
		} else {
			w.branch(proto, root, child, group, fan)
		}
		lines = append(lines, Line{
			Conds:   []Cond{is(KeyProto, uint32(proto)), {Key: w.side.port, First: uint32(first), Last: uint32(last)}},
			Verdict: jumpTo(child),
		})
	}
	w.ports[at].Lines = lines
}

// fanOf is how many ranges a block tells apart in a tree of n.
func fanOf(n int) int {
	fan := fanout
	for math.Pow(float64(fan), levels) < float64(n) {
		fan++
	}
	return fan
}

// segmentsOf cuts the port space at the ends of the lines' ranges.
func segmentsOf(proto Proto, lines []ruleLine) []segment {
	var cuts []int
	for _, l := range lines {
		if l.ports.Proto == proto && !l.ports.whole() {
			cuts = append(cuts, int(l.ports.First), int(l.ports.Last)+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var segments []segment
	for i := 0; i+1 < len(cuts); i++ {
		segments = append(segments, segment{first: uint16(cuts[i]), last: uint16(cuts[i+1] - 1)})
	}
	return segments
}

// segmentRange returns the half-open range of segments that p consists of.
func segmentRange(segments []segment, p Ports) (first, last int) {
	at := func(port uint16) int {
		i, _ := slices.BinarySearchFunc(segments, port, func(s segment, port uint16) int { return int(s.last) - int(port) })
		return i
	}
	if p.First > p.Last || len(segments) == 0 {
		return 0, 0
	}
	return at(p.First), at(p.Last) + 1
}
