package ruleset

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// walked is the number of lines up to which a packet walks them one by one.
	// That reads best, and up to here costs about as much as a map lookup.
	walked = 12
	// spread is the number of port segments over which a line may be copied; a
	// line with a wider range is walked, which bounds the table's size.
	spread = 8
)

// run adds lines whose order does not matter. If they are many, a map from port
// to block stands before them for each protocol, so that a packet walks only the
// lines for its own port and those for any:
//
//	meta l4proto tcp ct original proto-dst vmap @eth0/ingress/policy.0/tcp
func (w *walk) run(name string, lines []ruleLine) {
	if len(lines) > walked {
		for _, p := range []Proto{TCP, UDP, SCTP} {
			lines = w.dispatch(name, p, lines)
		}
	}
	for _, l := range lines {
		w.line(l.plain(w.side.port))
	}
}

// dispatch adds the map for one protocol and returns the lines it left out.
func (w *walk) dispatch(name string, proto Proto, lines []ruleLine) []ruleLine {
	segments := segmentsOf(proto, lines)
	var left []ruleLine
	copies := make([][]Line, len(segments))
	for _, l := range lines {
		first, last := segmentRange(segments, l.ports)
		if l.ports.Proto != proto || l.ports.whole() || last-first > spread {
			left = append(left, l)
			continue
		}
		for i := first; i < last; i++ {
			copies[i] = append(copies[i], l.line)
		}
	}
	if len(left) == len(lines) {
		return lines
	}
	base := w.name(w.side.block(), name, strings.ToLower(proto.String()))
	m := PortMap{Name: base}
	for i, s := range segments {
		if len(copies[i]) == 0 {
			continue
		}
		block := fmt.Sprintf("%s/%d", base, s.First)
		if s.First != s.Last {
			block = fmt.Sprintf("%s-%d", block, s.Last)
		}
		w.ports = append(w.ports, Block{Name: block, Lines: copies[i]})
		m.Elements = append(m.Elements, PortJump{First: s.First, Last: s.Last, Block: block})
	}
	w.table.Maps = append(w.table.Maps, m)
	w.line(Line{
		Conds:   []Cond{is(KeyProto, uint32(proto))},
		Verdict: Verdict{Kind: VerdictMap, Target: base, Key: w.side.port},
	})
	return left
}

// segmentsOf cuts the port space at the ends of the lines' ranges: within one
// segment every port meets the same lines.
func segmentsOf(proto Proto, lines []ruleLine) []Ports {
	var cuts []int
	for _, l := range lines {
		if l.ports.Proto == proto && !l.ports.whole() {
			cuts = append(cuts, int(l.ports.First), int(l.ports.Last)+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var segments []Ports
	for i := 0; i+1 < len(cuts); i++ {
		segments = append(segments, Ports{Proto: proto, First: uint16(cuts[i]), Last: uint16(cuts[i+1] - 1)})
	}
	return segments
}

// segmentRange returns the half-open range of segments that p consists of.
func segmentRange(segments []Ports, p Ports) (first, last int) {
	at := func(port uint16) int {
		i, _ := slices.BinarySearchFunc(segments, port, func(s Ports, port uint16) int { return int(s.Last) - int(port) })
		return i
	}
	if p.First > p.Last || len(segments) == 0 {
		return 0, 0
	}
	return at(p.First), at(p.Last) + 1
}
