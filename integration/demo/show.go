package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A stage is where the demo speaks: in colour on a terminal, plain otherwise.
type stage struct {
	out    io.Writer
	colour bool
	scenes int
}

// newStage speaks to f.
func newStage(f *os.File) *stage {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &stage{out: f, colour: err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// The colours of a terminal.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s *stage) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// scene begins a part of the story.
func (s *stage) scene(title string) {
	s.scenes++
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, fmt.Sprintf("%d. %s", s.scenes, title)))
}

// say tells one thing.
func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "   %s\n", fmt.Sprintf(format, args...))
}

// done tells one thing that was checked.
func (s *stage) done(format string, args ...any) {
	fmt.Fprintf(s.out, "   %s %s\n", s.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// shell shows a command and what it printed.
func (s *stage) shell(command, output string) {
	fmt.Fprintf(s.out, "   %s\n", s.paint(cyan, "$ "+command))
	for line := range strings.Lines(strings.TrimRight(output, "\n") + "\n") {
		fmt.Fprintf(s.out, "   %s %s", s.paint(dim, "│"), line)
	}
	fmt.Fprintln(s.out)
}

// table shows a matrix, and returns an error if any cell is not as it should be.
func (s *stage) table(m matrix, passed []bool) error {
	width := 0
	for _, r := range m.rows {
		width = max(width, len(r))
	}
	fmt.Fprintf(s.out, "\n   %*s", width, "")
	for _, c := range m.columns {
		fmt.Fprintf(s.out, "  %s", s.paint(dim, c))
	}
	fmt.Fprintln(s.out)
	var wrong []string
	for i, r := range m.rows {
		fmt.Fprintf(s.out, "   %*s", width, r)
		for j, c := range m.columns {
			k := i*len(m.columns) + j
			cell, colour := "✗", red
			if passed[k] {
				cell, colour = "✓", green
			}
			if passed[k] != m.flows[k].Pass {
				cell, colour = cell+"!", yellow
				wrong = append(wrong, m.flows[k].Name)
			}
			// Padding counts characters; colours are none.
			pad := strings.Repeat(" ", len(c)-len([]rune(cell)))
			fmt.Fprintf(s.out, "  %s%s", s.paint(colour, cell), pad)
		}
		fmt.Fprintln(s.out)
	}
	fmt.Fprintln(s.out)
	if wrong != nil {
		return fmt.Errorf("not as it should be (marked !): %s", strings.Join(wrong, ", "))
	}
	return nil
}
