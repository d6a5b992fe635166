package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	var values []float64
	for i := range 101 {
		values = append(values, float64(i))
	}
	rand.Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
	s := summarize(values)
	if s.median != 50 || s.q1 != 25 || s.q3 != 75 || s.low != 40 || s.top != 60 {
		t.Errorf("of 0 to 100: %+v, want median 50, quartiles 25 and 75, interval 40 to 60", s)
	}
	if s := summarize([]float64{3}); s.median != 3 || s.low != 3 || s.top != 3 {
		t.Errorf("of one value: %+v", s)
	}
	if s := tail(values); s.median != 99 || s.top != 100 || s.low >= 99 {
		t.Errorf("99th percentile of 0 to 100: %+v", s)
	}
}

// The interval holds the true median about as often as it says, whatever the
// noise looks like.
func TestIntervalHoldsTheMedian(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	held := 0
	for range 1000 {
		var values []float64
		for range 31 {
			v := 1 + rng.Float64()*0.1
			if rng.IntN(4) == 0 {
				v += rng.ExpFloat64() // a busy neighbour
			}
			values = append(values, v)
		}
		const median = 1.0667 // of what the loop draws: the lower two thirds of the quiet draws
		if s := summarize(values); s.low <= median && median <= s.top {
			held++
		}
	}
	if held < 900 {
		t.Errorf("held %d times of 1000, want about 950", held)
	}
}

func TestVerdict(t *testing.T) {
	at := func(low, median, top float64) spread { return spread{low: low, median: median, top: top} }
	tests := []struct {
		name   string
		got    spread
		target *target
		want   string
		farOff bool
	}{
		{"above", at(0.98, 0.99, 1), atLeast(0.97), "met", false},
		{"below", at(0.94, 0.95, 0.96), atLeast(0.97), "**not met**", true},
		{"below by less than a quarter of the slack", at(0.94, 0.95, 0.965), atLeast(0.97), "**not met**", false},
		{"around, mostly above", at(0.96, 0.98, 1), atLeast(0.97), "met by the median", false},
		{"around, mostly below", at(0.94, 0.96, 0.98), atLeast(0.97), "missed by the median", false},
		{"a bound kept", at(5, 6, 7), atMost(10), "met", false},
		{"a bound broken", at(11, 12, 13), atMost(10), "**not met**", false},
		{"a bound broken by far", at(13, 14, 15), atMost(10), "**not met**", true},
		{"a bound broken, but as is known", at(13, 14, 15), atMost(10).but(12, "physics"), "**not met**", false},
		{"a bound broken worse than is known", at(16, 17, 18), atMost(10).but(12, "physics"), "**not met**", true},
		{"a bound kept by the median", at(5, 6, 11), atMost(10), "met by the median", false},
		{"a bound missed by the median", at(9, 11, 12), atMost(10), "missed by the median", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := line{got: tt.got, target: tt.target}
			if got := l.verdict(); got != tt.want {
				t.Errorf("verdict = %q, want %q", got, tt.want)
			}
			b := bench{lines: []line{l}}
			if got := len(b.farOff()) > 0; got != tt.farOff {
				t.Errorf("far off = %v, want %v", got, tt.farOff)
			}
		})
	}
}

func TestScales(t *testing.T) {
	s := scaleOf([]float64{3, 40}, 0, 100)
	if s.log || s.at(0) != 0 || s.at(s.high) != 100 || s.high != 40 {
		t.Errorf("of 3 to 40: %+v, want linear from 0 to 40", s)
	}
	s = scaleOf([]float64{10, 100_000}, 0, 100)
	if !s.log || s.at(10) != 0 || s.at(1000) != 50 || s.at(100_000) != 100 {
		t.Errorf("of 10 to 100,000: %+v, want each power of ten as far from the next", s)
	}
}

// Pictures are well-formed, whatever their names are.
func TestCurve(t *testing.T) {
	c := curve{"f", "a < b & c", "pods", "ms", []series{{`"x"`, []point{{1, 2}, {1000, 4}}}, flat("y", 3, 1, 1000)}}
	d := xml.NewDecoder(strings.NewReader(c.svg()))
	lines := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if el, ok := tok.(xml.StartElement); ok && el.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d lines are drawn, want 2", lines)
	}
}
