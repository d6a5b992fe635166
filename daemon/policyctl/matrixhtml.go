package main

import (
	"fmt"
	"html"
	"math"
	"strings"

	"github.com/podwall/podwall/internal/explain"
)

// Lengths of the picture, in its own units.
const (
	cellSize  = 18
	letter    = 6.7 // of a label, on average; its font is 11 high
	groupGap  = 6   // between namespaces
	headAngle = 60  // by which the columns' labels are turned
)

// matrixStyle gives each verdict a colour that those see too who don't tell red
// from green: they differ in brightness, and each has its sign.
const matrixStyle = `
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --dim: #6a737d; --allow: #2e9e6b; --some: #f2c14e; --deny: #f3d9d6; --self: #e4e7ea; --sign: #1b1f24; }
@media (prefers-color-scheme: dark) {
:root { --page: #14171a; --ink: #e3e6e9; --dim: #8b949e; --allow: #2e9e6b; --some: #d9a521; --deny: #4a2b2b; --self: #2a2f35; --sign: #f5f6f7; }
}
body { margin: 1.5rem; background: var(--page); color: var(--ink); font: 14px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.2rem; } p, th { color: var(--dim); } th { font-weight: normal; }
svg { max-width: none; } svg text { font: 11px ui-monospace, monospace; fill: var(--ink); } svg .axis { fill: var(--dim); }
rect.allow { fill: var(--allow); } rect.some { fill: var(--some); } rect.deny { fill: var(--deny); } rect.self { fill: var(--self); }
svg .sign { fill: var(--sign); text-anchor: middle; pointer-events: none; } .cell:hover rect { stroke: var(--ink); stroke-width: 2; }
table { border-collapse: collapse; margin-top: 1.5rem; } th, td { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top; }
`

// matrixHTML is m as one page that needs no other file and no script. It is XML
// too, whatever the names in it.
func matrixHTML(m matrix) string {
	title := "Who may reach whom"
	if len(m.Asked) > 0 {
		title += " on " + m.Asked[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"+
		"<meta name=\"viewport\" content=\"width=device-width\"/>\n<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<h1>%s</h1>\n",
		escape(title), matrixStyle, escape(title))
	fmt.Fprintf(&b, "<p>Rows open connections, columns are reached. %s. Point at a cell to see what decides.</p>\n", escape(m.legend().render(false)))
	if len(m.Pods) == 0 {
		b.WriteString("<p>no pods</p>\n")
	} else {
		drawSVG(&b, m)
	}
	tableOfSome(&b, m)
	b.WriteString("</body>\n</html>\n")
	return b.String()
}

// escape is s as text or as an attribute, with nothing in it that XML forbids.
func escape(s string) string { return html.EscapeString(clean(s)) }

// drawSVG draws the square: labels at the left and, turned, above.
func drawSVG(b *strings.Builder, m matrix) {
	label := 0.0
	for _, r := range m.Pods {
		label = max(label, float64(columns(clean(r.Name)))*letter)
	}
	sin, cos := math.Sincos(headAngle * math.Pi / 180)
	left, top := label+10, label*sin+16
	at := offsets(m.Pods)
	size := at[len(at)-1] + cellSize
	fmt.Fprintf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" role=\"img\" aria-label=\"matrix of %d rows\">\n",
		left+size+label*cos+20, top+size+10, len(m.Pods))
	for i, r := range m.Pods {
		name := fmt.Sprintf("<title>%s</title>%s", escape(strings.Join(r.Pods, ", ")), escape(r.Name))
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", left-6, top+at[i]+cellSize-5, name)
		fmt.Fprintf(b, "<text transform=\"translate(%.1f %.1f) rotate(-%d)\">%s</text>\n", left+at[i]+cellSize-6, top-6, headAngle, name)
	}
	for i := range m.Pods {
		for j := range m.Pods {
			m.Cells[i*len(m.Pods)+j].drawSVG(b, left+at[j], top+at[i])
		}
	}
	b.WriteString("</svg>\n")
}

// offsets is where the rows begin, with a gap between namespaces.
func offsets(rows []matrixRow) []float64 {
	at := make([]float64, len(rows))
	for i := 1; i < len(rows); i++ {
		at[i] = at[i-1] + cellSize
		if rows[i].Namespace != rows[i-1].Namespace {
			at[i] += groupGap
		}
	}
	return at
}

// drawSVG draws a cell with its left upper corner at x and y.
func (c matrixCell) drawSVG(b *strings.Builder, x, y float64) {
	fmt.Fprintf(b, "<g class=\"cell\"><title>%s</title><rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" rx=\"2\"/>",
		c.title(), c.class(), x, y, cellSize-1, cellSize-1)
	fmt.Fprintf(b, "<text class=\"sign\" x=\"%.1f\" y=\"%.1f\">%s</text></g>\n", x+(cellSize-1)/2., y+cellSize-5, c.sign().text)
}

func (c matrixCell) class() string {
	switch {
	case c.Self:
		return "self"
	case c.Verdict == explain.Allow:
		return "allow"
	case c.Verdict == verdictSome:
		return "some"
	}
	return "deny"
}

// title is what a pointer at the cell shows: the pair, then a paragraph for each
// verdict.
func (c matrixCell) title() string {
	lines := []string{escape(c.From + " → " + c.To)}
	for i, p := range c.Ports {
		lines = append(lines, escape(c.words(i)+": "+p.Verdict),
			escape("  egress: "+p.Egress.By), escape("  ingress: "+p.Ingress.By))
	}
	return strings.Join(lines, "\n")
}

// tableOfSome lists the pairs that one sign can't say all about.
func tableOfSome(b *strings.Builder, m matrix) {
	var rows strings.Builder
	for _, c := range m.Cells {
		if c.Verdict == verdictSome {
			fmt.Fprintf(&rows, "<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
				escape(c.From), escape(c.To), escape(c.list(explain.Allow)), escape(c.list(explain.Deny)))
		}
	}
	if rows.Len() > 0 {
		fmt.Fprintf(b, "<table>\n<tr><th>from</th><th>to</th><th>allowed</th><th>denied</th></tr>\n%s</table>\n", rows.String())
	}
}
