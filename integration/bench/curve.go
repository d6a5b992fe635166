package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A curve is one picture: what something costs, over what it may depend on.
type curve struct {
	file, title string
	x, y        string // what the axes mean
	series      []series
}

// A series is one line of a curve.
type series struct {
	name   string
	points []point
}

// A point is what was measured at x.
type point struct{ x, y float64 }

// flat is a series that does not depend on x.
func flat(name string, y, from, to float64) series {
	return series{name, []point{{from, y}, {to, y}}}
}

// curve adds a picture to the page.
func (b *bench) curve(file, title, x, y string, lines ...series) {
	b.curves = append(b.curves, curve{file, title, x, y, lines})
}

// The picture's size, and the frame inside of it.
const (
	width, height            = 640, 320
	left, right, above, foot = 64, 200, 36, 44
)

// colours of series, in their order; they can be told apart by the colour-blind.
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// A scale maps values to the picture: by their logarithms where they span more
// than two powers of ten, so that a cost out of proportion is a steeper line.
type scale struct {
	low, high float64
	log       bool
	from, to  float64 // in the picture
}

// scaleOf covers the values; one that is not logarithmic begins at zero.
func scaleOf(values []float64, from, to float64) scale {
	s := scale{low: math.Inf(1), from: from, to: to}
	for _, v := range values {
		s.low, s.high = min(s.low, v), max(s.high, v)
	}
	if s.log = s.low > 0 && s.high/s.low >= 100; s.log {
		s.low, s.high = math.Pow(10, math.Floor(math.Log10(s.low))), math.Pow(10, math.Ceil(math.Log10(s.high)))
		return s
	}
	s.low = 0
	if s.high == 0 {
		s.high = 1
	}
	step := s.step()
	s.high = math.Ceil(s.high/step-1e-9) * step
	return s
}

// step is a round number, a few of which make the scale.
func (s scale) step() float64 {
	unit := math.Pow(10, math.Floor(math.Log10(s.high)))
	for _, part := range []float64{0.2, 0.5, 1} {
		if s.high/(unit*part) <= 6 {
			return unit * part
		}
	}
	return unit * 2
}

// at is where v is in the picture.
func (s scale) at(v float64) float64 {
	part := (v - s.low) / (s.high - s.low)
	if s.log {
		part = math.Log10(v/s.low) / math.Log10(s.high/s.low)
	}
	return s.from + part*(s.to-s.from)
}

// ticks are the values that the scale names.
func (s scale) ticks() (at []float64) {
	if s.log {
		for v := s.low; v <= s.high*1.001; v *= 10 {
			at = append(at, v)
		}
		return at
	}
	for i := 0.0; i*s.step() <= s.high*1.001; i++ {
		at = append(at, i*s.step())
	}
	return at
}

// svg draws the curve.
func (c curve) svg() string {
	var xs, ys []float64
	for _, line := range c.series {
		for _, p := range line.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	x, y := scaleOf(xs, left, width-right), scaleOf(ys, height-foot, above)
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	text(&s, left, 20, "start", "#000", c.title)
	for _, v := range x.ticks() {
		rule(&s, x.at(v), above, x.at(v), height-foot)
		text(&s, x.at(v), height-foot+16, "middle", "#000", number(v))
	}
	for _, v := range y.ticks() {
		rule(&s, left, y.at(v), width-right, y.at(v))
		text(&s, left-6, y.at(v)+4, "end", "#000", number(v))
	}
	text(&s, (left+width-right)/2, height-10, "middle", "#000", c.x)
	text(&s, 8, above-4, "start", "#000", c.y)
	for i, line := range c.series {
		line.draw(&s, x, y, colours[i%len(colours)], float64(above+16*i+8))
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// draw draws one series and its entry in the legend.
func (line series) draw(s *strings.Builder, x, y scale, colour string, legend float64) {
	var at []string
	for _, p := range line.points {
		at = append(at, fmt.Sprintf("%.1f,%.1f", x.at(p.x), y.at(p.y)))
		fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s, %s</title></circle>`+"\n",
			x.at(p.x), y.at(p.y), colour, html.EscapeString(line.name), number(p.x), number(p.y))
	}
	fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(at, " "), colour)
	text(s, width-right+12, legend, "start", colour, line.name)
}

func rule(s *strings.Builder, x1, y1, x2, y2 float64) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x1, y1, x2, y2)
}

func text(s *strings.Builder, x, y float64, anchor, colour, what string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, colour, html.EscapeString(what))
}

// number prints a value of a scale: 100,000 and not 1e+05.
func number(v float64) string {
	s := fmt.Sprintf("%.4g", v)
	if v < 1000 {
		return s
	}
	s = fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
