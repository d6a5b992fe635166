package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// A bench is one run of the benchmark and what it has found so far.
type bench struct {
	short   bool
	soaking time.Duration
	log     io.Writer
	axis    string // the one that is measured now
	lines   []line
	curves  []curve
	took    time.Duration
}

// A line is one row of the table.
type line struct {
	axis, what, beside string
	unit               string // what got is in; empty for a ratio
	got                spread
	rate               string // of podwall, for orientation
	target             *target
}

// A target is what a line should reach at least, or at most.
type target struct {
	value float64
	most  bool
	// Where something stands against the target: what, and what is held instead.
	why   string
	holds float64
}

func atLeast(v float64) *target { return &target{value: v} }
func atMost(v float64) *target  { return &target{value: v, most: true} }

// but says what stands against the target, and what is held instead.
func (t *target) but(holds float64, why string) *target {
	t.holds, t.why = holds, why
	return t
}

func (t *target) String() string {
	if t.most {
		return fmt.Sprintf("≤ %.4g", t.value)
	}
	return fmt.Sprintf("≥ %.4g", t.value)
}

// bound is what the short form does not let a line fall behind: what is held, and a
// quarter of how far that is from costing nothing.
func (t *target) bound() float64 {
	held := t.value
	if t.why != "" {
		held = t.holds
	}
	if t.most {
		return held + held/4
	}
	return held - (1-held)/4
}

// verdict is met or not met where the whole interval is on one side.
func (l line) verdict() string {
	if l.target == nil {
		return ""
	}
	best, worst := l.got.top, l.got.low
	v := l.target.value
	if l.target.most {
		best, worst, v = -l.got.low, -l.got.top, -v
	}
	switch {
	case worst >= v:
		return "met"
	case best < v:
		return "**not met**"
	case l.target.most == (l.got.median <= l.target.value):
		return "met by the median"
	default:
		return "missed by the median"
	}
}

// add puts a line into the table.
func (b *bench) add(l line) {
	l.axis = b.axis
	b.lines = append(b.lines, l)
	_, _ = fmt.Fprintln(b.log, l.text())
}

// text is the line for a terminal.
func (l line) text() string {
	s := fmt.Sprintf("%-66s %-26s %8s", l.what, l.beside, l.figure(l.got.median))
	s += fmt.Sprintf(" [%s … %s]", l.figure(l.got.low), l.figure(l.got.top))
	if l.target != nil {
		s += fmt.Sprintf("  %s %s", l.target, l.verdict())
	}
	return s
}

// figure prints a value with as many digits as mean something.
func (l line) figure(v float64) string {
	switch {
	case l.unit == "":
		return fmt.Sprintf("%.3f", v)
	case v >= 100:
		return fmt.Sprintf("%.0f %s", v, l.unit)
	case v >= 10:
		return fmt.Sprintf("%.1f %s", v, l.unit)
	}
	return fmt.Sprintf("%.2f %s", v, l.unit)
}

// farOff names the lines that are behind their target's bound by more than noise.
// Times are left out: they say more about the machine than about podwall.
func (b *bench) farOff() (off []string) {
	for _, l := range b.lines {
		if l.target == nil || l.unit == "ms" {
			continue
		}
		bound := l.target.bound()
		if l.target.most && l.got.low > bound || !l.target.most && l.got.top < bound {
			off = append(off, l.text())
		}
	}
	return off
}

// A pairing compares two subjects under one load.
type pairing struct {
	load      load
	a, b      subject
	precision float64 // what half of the interval may be
	pairs     int     // at most
}

const (
	slice     = 100 * time.Millisecond
	fewest    = 9 // pairs, of which the interval of a median is worth something
	precision = 0.02
)

// ratio runs a and b in turn, in changing order and on changing pods, until the
// median of a's rate over b's is known well enough. With it comes a's rate.
func (p pairing) ratio(ctx context.Context) (of, rate spread, err error) {
	var ratios, rates []float64
	for i := range p.pairs {
		var a, b count
		first, second, ca, cb := p.a.any(), p.b.any(), &a, &b
		if i%2 == 1 {
			first, second, ca, cb = second, first, &b, &a
		}
		if *ca, err = p.load.run(first, slice); err != nil {
			return of, rate, fmt.Errorf("%s, %s: %w", p.load.name, first.name, err)
		}
		if *cb, err = p.load.run(second, slice); err != nil {
			return of, rate, fmt.Errorf("%s, %s: %w", p.load.name, second.name, err)
		}
		ratios, rates = append(ratios, a.rate()/b.rate()), append(rates, a.rate())
		of, rate = summarize(ratios), summarize(rates)
		if ctx.Err() != nil {
			return of, rate, context.Cause(ctx)
		}
		if i+1 >= fewest && of.top-of.low <= 2*p.precision {
			break
		}
	}
	return of, rate, nil
}
