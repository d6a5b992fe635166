package main

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// A span is a piece of text in one style. Its text may come from anywhere: it is
// cleaned when it is printed, and only styles put escape codes around it, so a
// span is as wide as its text.
type span struct {
	text  string
	style style
}

// A style is a select graphic rendition parameter, or none.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// A text is spans on one line.
type text []span

func plain(s string) text { return text{{text: s}} }

func plainf(format string, args ...any) text { return plain(fmt.Sprintf(format, args...)) }

// in is s in this style.
func (st style) in(s string) text { return text{{text: s, style: st}} }

// join puts texts together with sep between them, leaving out empty ones.
func join(sep string, parts ...text) text {
	var all text
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		if len(all) > 0 {
			all = append(all, span{text: sep, style: dim})
		}
		all = append(all, p...)
	}
	return all
}

// width is the number of a terminal's columns that t takes.
func (t text) width() int {
	n := 0
	for _, s := range t {
		n += columns(clean(s.text))
	}
	return n
}

// render is t as it goes to the terminal.
func (t text) render(color bool) string {
	var b strings.Builder
	for _, s := range t {
		if !color || s.style == "" {
			b.WriteString(clean(s.text))
			continue
		}
		fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m", s.style, clean(s.text))
	}
	return b.String()
}

// columns is the number of a terminal's columns that s takes: two for the wide
// characters of East Asia and for emoji, none for marks on the one before.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}

// clean escapes what could move a terminal's cursor or hide text: control and
// format characters and bytes that are no UTF-8.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// A page is what a command draws for people, line by line.
type page struct {
	b     strings.Builder
	color bool
}

// line adds one line.
func (p *page) line(parts ...text) {
	for _, t := range parts {
		p.b.WriteString(t.render(p.color))
	}
	p.b.WriteByte('\n')
}

// gap adds an empty line, unless the page is empty.
func (p *page) gap() {
	if p.b.Len() > 0 {
		p.line()
	}
}

// columnGap stands between two columns.
const columnGap = "   "

// A grid is a table: a head and rows of cells, drawn in aligned columns. A
// heading that begins with '>' has a column aligned to the right.
type grid struct {
	head []string
	rows [][]text
}

func newGrid(head ...string) *grid { return &grid{head: head} }

// row adds a row of as many cells as there are headings. An empty cell is drawn
// as a dash, so that every line has a word in every column.
func (g *grid) row(cells ...text) {
	for i, c := range cells {
		if c.width() == 0 {
			cells[i] = dim.in("-")
		}
	}
	g.rows = append(g.rows, cells)
}

// draw adds g to the page, each line after indent.
func (p *page) draw(g *grid, indent string) {
	head := make([]text, len(g.head))
	for i, h := range g.head {
		head[i] = dim.in(strings.TrimPrefix(h, ">"))
	}
	rows := append([][]text{head}, g.rows...)
	widths := make([]int, len(head))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], c.width())
		}
	}
	for _, r := range rows {
		p.b.WriteString(indent)
		for i, c := range r {
			p.cell(c, widths[i], strings.HasPrefix(g.head[i], ">"), i == len(r)-1)
		}
		p.b.WriteByte('\n')
	}
}

// cell adds one cell of the given width. The last of a line is followed by
// nothing.
func (p *page) cell(c text, width int, right, last bool) {
	pad := strings.Repeat(" ", width-c.width())
	if right {
		p.b.WriteString(pad)
	}
	p.b.WriteString(c.render(p.color))
	if last {
		return
	}
	if !right {
		p.b.WriteString(pad)
	}
	p.b.WriteString(columnGap)
}

// A fact is a named line of a page.
type fact struct {
	name string
	text text
}

// facts adds the facts that have a text, the names aligned.
func (p *page) facts(facts ...fact) {
	w := 0
	for _, f := range facts {
		if len(f.text) > 0 {
			w = max(w, columns(f.name))
		}
	}
	for _, f := range facts {
		if len(f.text) > 0 {
			p.line(dim.in("  "+f.name+strings.Repeat(" ", w-columns(f.name))), plain("  "), f.text)
		}
	}
}
