package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
)

// drawMatrix draws a square of signs, whose columns have the rows' numbers, and
// below it the pairs that need words: those with some ports or, in detail, all.
//
//	FROM ╲ TO       1 2 3
//	1 shop/api      · ✗ ✗
//	2 shop/caged    ✗ · ✓
//	3 shop/web      ◐ ✓ ·
func drawMatrix(p *page, m matrix.Matrix, detail bool) {
	if len(m.Pods) == 0 {
		p.line(dim.in("no pods"))
		return
	}
	digits := len(strconv.Itoa(len(m.Pods)))
	const corner = "FROM ╲ TO"
	names := columns(corner) - digits
	for _, r := range m.Pods {
		names = max(names, columns(clean(r.Name))+1)
	}
	p.line(dim.in(corner+strings.Repeat(" ", digits+names-columns(corner))), dim.in("  "), numbers(len(m.Pods), digits))
	for i, r := range m.Pods {
		label := plain(" " + r.Name + strings.Repeat(" ", names-1-columns(clean(r.Name))+2))
		line := append(dim.in(fmt.Sprintf("%*d", digits, i+1)), label...)
		for _, c := range m.Cells[i*len(m.Pods) : (i+1)*len(m.Pods)] {
			line = append(line, span{text: strings.Repeat(" ", digits)}, sign(c))
		}
		p.line(line)
	}
	p.gap()
	p.line(legend(m))
	drawPairs(p, m, detail)
}

func numbers(n, digits int) text {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " %*d", digits, i+1)
	}
	return dim.in(b.String())
}

// sign is a cell in one character.
func sign(c matrix.Cell) span {
	switch {
	case c.Self:
		return span{"·", dim}
	case c.Verdict == explain.Allow:
		return span{"✓", green}
	case c.Verdict == matrix.Some:
		return span{"◐", yellow}
	}
	return span{"✗", red}
}

// legend says what the signs mean.
func legend(m matrix.Matrix) text {
	if len(m.Asked) > 0 {
		return join("   ", append(green.in("✓ "), plainf("%s is allowed", m.Asked[0])...), append(red.in("✗ "), plain("denied")...))
	}
	return join("   ", append(green.in("✓ "), plain("every port")...),
		append(yellow.in("◐ "), plain("some ports")...), append(red.in("✗ "), plain("none")...))
}

// drawPairs draws the pairs of which some ports are allowed or, in detail, every
// pair and port with what decides at either end.
func drawPairs(p *page, m matrix.Matrix, detail bool) {
	g := newGrid("FROM", "TO", "ALLOWED", "DENIED")
	if detail {
		g = newGrid("FROM", "TO", "PORTS", "VERDICT", "EGRESS", "INGRESS")
	}
	for _, c := range m.Cells {
		switch {
		case c.Self:
		case detail:
			for i, port := range c.Ports {
				g.row(plain(c.From), plain(c.To), plain(c.Words(i)), good(port.Verdict).in(port.Verdict),
					side(port.Egress), side(port.Ingress))
			}
		case c.Verdict == matrix.Some:
			g.row(plain(c.From), plain(c.To), plain(c.List(explain.Allow)), plain(c.List(explain.Deny)))
		}
	}
	if len(g.rows) > 0 {
		p.gap()
		p.draw(g, "")
	}
}

func side(s matrix.Side) text { return append(mark(s.Verdict), plain(s.By)...) }
