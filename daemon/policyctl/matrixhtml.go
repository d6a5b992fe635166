package main

import (
	"fmt"
	"html"
	"strings"

	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
	"github.com/podwall/podwall/internal/ruleset"
)

// roomy is up to how many rows cells have room for words.
const roomy = 14

// matrixStyle tells the verdicts apart by brightness, not by colour alone: what is
// open is dark, what is closed is pale, and what is open in part is both.
//
// A cell's label is what a screen reader says about it and, while the pointer is
// there, what the card in the corner shows.
const matrixStyle = `
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #20252b; --dim: #69727d; --line: #dcdfe3; --card: #fff;
  --open: #1f8a70; --closed: #f1dcd8; --self: #e6e8eb; --on-open: #fff; --on-closed: #a0463a; --cross: #20252b14; }
@media (prefers-color-scheme: dark) {
:root { --page: #15181c; --ink: #e2e6ea; --dim: #8d97a3; --line: #343a41; --card: #1f242a;
  --open: #2fae8e; --closed: #43292a; --self: #2a2f36; --on-open: #06251d; --on-closed: #e59c91; --cross: #ffffff17; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 1.75rem 2rem 9rem; background: var(--page); color: var(--ink); font: 14px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.45rem; font-weight: 650; letter-spacing: -.01em; }
p { margin: .2rem 0 0; color: var(--dim); max-width: 60rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.4rem; margin: .9rem 0 1.4rem; }
p.open { margin: -.6rem 0 1.3rem; }
.legend span { display: inline-flex; align-items: center; gap: .45rem; }
i { display: inline-block; width: 16px; height: 16px; border-radius: 3px; }
.allow { background: var(--open); color: var(--on-open); } .deny { background: var(--closed); color: var(--on-closed); } .self { background: var(--self); color: var(--dim); }
.some { background: linear-gradient(135deg, var(--open) 50%, var(--closed) 50%); }
table.matrix { border-collapse: separate; border-spacing: 1px; }
.matrix th { font-weight: normal; white-space: nowrap; padding: 0; background: var(--page); }
.matrix td { position: relative; padding: 0; width: 19px; height: 19px; min-width: 19px; border-radius: 3px; text-align: center; cursor: default; }
.matrix thead th { position: sticky; top: 0; z-index: 2; vertical-align: bottom; }
.matrix thead th div { writing-mode: vertical-rl; transform: rotate(180deg); padding: .45rem 0 .3rem; margin: 0 auto; max-height: 17rem; overflow: hidden; text-overflow: ellipsis; line-height: 19px; }
.matrix tbody th { position: sticky; left: 0; z-index: 1; text-align: right; padding: 0 .6rem 0 .2rem; max-width: 24rem; overflow: hidden; text-overflow: ellipsis; }
.matrix th.corner { left: 0; z-index: 3; text-align: right; color: var(--dim); padding: 0 .6rem .4rem 0; font-size: 12px; }
.matrix th em { font-style: normal; color: var(--dim); }
.matrix .gap { width: 7px; min-width: 7px; height: 7px; background: none; }
.roomy td { min-width: 66px; height: 34px; font-size: 12.5px; padding: 0 .5rem; white-space: nowrap; } .roomy th { font-size: 13.5px; }
.roomy td.some { background: linear-gradient(135deg, var(--open) 9px, transparent 9px), color-mix(in srgb, var(--open) 24%, var(--page)); color: var(--ink); }
.matrix tbody tr:hover th { color: var(--ink); font-weight: 650; } .matrix tbody tr:hover td:not(.gap) { box-shadow: inset 0 0 0 99px var(--cross); }
.matrix td[aria-label]:hover { outline: 2px solid var(--ink); outline-offset: 0; z-index: 1; }
.matrix td[aria-label]:hover::after { content: attr(aria-label); position: fixed; pointer-events: none; right: 1.5rem; bottom: 1.5rem; z-index: 9; max-width: min(46rem, calc(100vw - 3rem)); padding: .8rem 1.1rem;
  white-space: pre-wrap; text-align: left; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 8px; box-shadow: 0 6px 28px #0004; }
h2 { margin: 2.2rem 0 .5rem; font-size: 1.05rem; font-weight: 650; }
table.ports { border-collapse: collapse; } .ports th { color: var(--dim); font-weight: normal; } .ports th, .ports td { text-align: left; padding: .22rem 2rem .22rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
.ports td:nth-child(3) { color: var(--open); } .ports td:nth-child(4) { color: var(--on-closed); }
@media print { .matrix th { position: static !important; } body { padding: 0; } }
`

// matrixHTML is m as one page that needs no other file and no script. It is XML
// too, whatever the names in it.
func matrixHTML(m matrix.Matrix) string {
	title := "Who may reach whom"
	if len(m.Asked) > 0 {
		title += " on " + m.Asked[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"+
		"<meta name=\"viewport\" content=\"width=device-width\"/>\n<title>%s</title>\n<style>%s%s</style>\n</head>\n<body>\n<h1>%s</h1>\n",
		escape(title), matrixStyle, crosshair(m), escape(title))
	fmt.Fprintf(&b, "<p>%s</p>\n", escape(summary(m)))
	drawLegend(&b, m)
	if len(m.Pods) > 0 {
		drawSquare(&b, m)
		tableOfSome(&b, m)
	}
	b.WriteString("</body>\n</html>\n")
	return b.String()
}

// escape is s as text or as an attribute, with nothing in it that XML forbids.
func escape(s string) string { return html.EscapeString(clean(s)) }

// crosshair is a rule for each column, which lights up while the pointer is in
// it. Without script a table knows its rows only.
func crosshair(m matrix.Matrix) string {
	var b strings.Builder
	for i := range columnsOf(m) {
		fmt.Fprintf(&b, ".matrix:has(tbody td[aria-label]:nth-child(%[1]d):hover) td:nth-child(%[1]d) { box-shadow: inset 0 0 0 99px var(--cross); }\n"+
			".matrix:has(tbody td[aria-label]:nth-child(%[1]d):hover) thead th:nth-child(%[1]d) { font-weight: 650; }\n", i+2)
	}
	return b.String()
}

// summary is m in a sentence.
func summary(m matrix.Matrix) string {
	if len(m.Pods) == 0 {
		return "There are no pods."
	}
	pods, namespaces := 0, map[string]bool{}
	for _, r := range m.Pods {
		pods += len(r.Pods)
		namespaces[r.Namespace] = true
	}
	s := fmt.Sprintf("%s in %s", many(uint64(pods), "pod", "pods"), many(uint64(len(namespaces)), "namespace", "namespaces"))
	if pods > len(m.Pods) {
		s += fmt.Sprintf(", those alike in one row: %s", many(uint64(len(m.Pods)), "row", "rows"))
	}
	return s + ". Rows open connections, columns are reached. Point at a cell to see what decides."
}

// drawLegend says what the cells mean, and how many there are of each.
func drawLegend(b *strings.Builder, m matrix.Matrix) {
	n := map[string]int{}
	for _, c := range m.Cells {
		n[class(c)]++
	}
	words := []struct{ class, text string }{{"allow", "every port"}, {"some", "some ports"}, {"deny", "none"}}
	if len(m.Asked) > 0 {
		words = []struct{ class, text string }{{"allow", "allowed"}, {"deny", "denied"}}
	}
	b.WriteString("<div class=\"legend\">")
	for _, w := range words {
		fmt.Fprintf(b, "<span><i class=\"%s\"></i>%s: %s</span>", w.class, w.text, many(uint64(n[w.class]), "pair", "pairs"))
	}
	b.WriteString("</div>\n")
	if open := openToAll(m); len(open) > 0 {
		fmt.Fprintf(b, "<p class=\"open\">Open to all the others on every port: %s.</p>\n", escape(strings.Join(open, ", ")))
	}
}

// openToAll is the rows that every other one may reach on every port: most often
// no policy is about them.
func openToAll(m matrix.Matrix) []string {
	var open []string
	if len(m.Pods) < 3 {
		return nil // one other is not all
	}
	for j, r := range m.Pods {
		all := true
		for i := range m.Pods {
			all = all && (i == j || m.Cells[i*len(m.Pods)+j].Verdict == explain.Allow)
		}
		if all {
			open = append(open, r.Name)
		}
	}
	return open
}

// columnsOf is the columns of the table after the first: rows' indexes, and -1
// for a gap between namespaces.
func columnsOf(m matrix.Matrix) []int {
	var list []int
	for i, r := range m.Pods {
		if i > 0 && r.Namespace != m.Pods[i-1].Namespace {
			list = append(list, -1)
		}
		list = append(list, i)
	}
	return list
}

// drawSquare draws the table, whose labels stay in sight while one scrolls.
func drawSquare(b *strings.Builder, m matrix.Matrix) {
	room := ""
	if len(m.Pods) <= roomy {
		room = " roomy"
	}
	columns := columnsOf(m)
	fmt.Fprintf(b, "<table class=\"matrix%s\">\n<thead><tr><th class=\"corner\">from ↓ &#160; to →</th>", room)
	for _, j := range columns {
		if j < 0 {
			b.WriteString("<th class=\"gap\"></th>")
			continue
		}
		fmt.Fprintf(b, "<th scope=\"col\" title=\"%s\"><div>%s</div></th>", escape(strings.Join(m.Pods[j].Pods, ", ")), label(m.Pods[j]))
	}
	b.WriteString("</tr></thead>\n<tbody>\n")
	for _, i := range columns {
		if i < 0 {
			b.WriteString("<tr><th class=\"gap\"></th></tr>\n")
			continue
		}
		fmt.Fprintf(b, "<tr><th scope=\"row\" title=\"%s\">%s</th>", escape(strings.Join(m.Pods[i].Pods, ", ")), label(m.Pods[i]))
		for _, j := range columns {
			if j < 0 {
				b.WriteString("<td class=\"gap\"></td>")
				continue
			}
			drawCell(b, m.Cells[i*len(m.Pods)+j], room != "")
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody>\n</table>\n")
}

// label is a row's name, with its namespace less loud.
func label(r matrix.Row) string {
	return fmt.Sprintf("<em>%s/</em>%s", escape(r.Namespace), escape(strings.TrimPrefix(r.Name, r.Namespace+"/")))
}

func drawCell(b *strings.Builder, c matrix.Cell, words bool) {
	text := ""
	if words {
		text = escape(inside(c))
	}
	fmt.Fprintf(b, "<td class=\"%s\" aria-label=\"%s\">%s</td>", class(c), caption(c), text)
}

// class is what a cell looks like.
func class(c matrix.Cell) string {
	switch {
	case c.Self:
		return "self"
	case c.Verdict == explain.Allow:
		return "allow"
	case c.Verdict == matrix.Some:
		return "some"
	}
	return "deny"
}

// inside is what a cell says where it has room: a sign, or the ports that are
// open, the protocol only where it is not TCP.
func inside(c matrix.Cell) string {
	if c.Verdict != matrix.Some || c.Self {
		return sign(c).text
	}
	var words []string
	for _, p := range c.Ports {
		switch {
		case p.Verdict != explain.Allow:
		case p.Other:
			words = append(words, "others")
		case p.Ports.Proto == ruleset.TCP:
			words = append(words, strings.TrimPrefix(p.Ports.String(), "TCP "))
		default:
			words = append(words, p.Ports.String())
		}
	}
	const room = 2
	if len(words) > room {
		return fmt.Sprintf("%s +%d", strings.Join(words[:room-1], ", "), len(words)-room+1)
	}
	return strings.Join(words, ", ")
}

// caption is a cell in words: the pair, then a paragraph for each verdict.
func caption(c matrix.Cell) string {
	lines := []string{escape(c.From + " → " + c.To)}
	for i, p := range c.Ports {
		lines = append(lines, escape(fmt.Sprintf("%s %s: %s", mark(p.Verdict)[0].text[:len("✓")], c.Words(i), p.Verdict)),
			escape("    egress   "+p.Egress.By), escape("    ingress  "+p.Ingress.By))
	}
	return strings.Join(lines, "&#10;")
}

// tableOfSome lists the pairs that one colour can't say all about.
func tableOfSome(b *strings.Builder, m matrix.Matrix) {
	var rows strings.Builder
	for _, c := range m.Cells {
		if c.Verdict == matrix.Some {
			fmt.Fprintf(&rows, "<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
				escape(c.From), escape(c.To), escape(c.List(explain.Allow)), escape(c.List(explain.Deny)))
		}
	}
	if rows.Len() > 0 {
		fmt.Fprintf(b, "<h2>Pairs with some ports</h2>\n<table class=\"ports\">\n<tr><th>from</th><th>to</th><th>allowed</th><th>denied</th></tr>\n%s</table>\n", rows.String())
	}
}
