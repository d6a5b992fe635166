package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// print writes the table for a terminal.
func (b *bench) print(w io.Writer) {
	axis := ""
	for _, l := range b.lines {
		if l.axis != axis {
			axis = l.axis
			_, _ = fmt.Fprintf(w, "\n%s\n", axis)
		}
		_, _ = fmt.Fprintln(w, "  "+l.text())
	}
	_, _ = fmt.Fprintf(w, "\n%s; %.0f s\n", machine(), b.took.Seconds())
}

// write makes the page, and the pictures in a folder of its name.
func (b *bench) write(page string) error {
	folder := strings.TrimSuffix(page, filepath.Ext(page))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, c := range b.curves {
		if err := os.WriteFile(filepath.Join(folder, c.file+".svg"), []byte(c.svg()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(page, []byte(b.page(filepath.Base(folder))), 0o644)
}

// page is docs/performance.md.
func (b *bench) page(folder string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Performance\n\nMade by `make bench` on %s, in %.0f minutes: %s.\n\n%s\n",
		time.Now().UTC().Format("2 January 2006"), b.took.Minutes(), machine(), method)
	s.WriteString("\n## Targets\n\n| what | beside | measured | 95 % | target | verdict |\n|---|---|---|---|---|---|\n")
	for _, l := range b.lines {
		if l.target != nil {
			fmt.Fprintf(&s, "| %s | %s | %s | %s … %s | %s | %s |\n", l.what, l.beside,
				l.figure(l.got.median), l.figure(l.got.low), l.figure(l.got.top), l.target, l.verdict())
		}
	}
	b.reasons(&s)
	for _, a := range axes() {
		b.section(&s, a)
	}
	s.WriteString("\n## Curves\n")
	for _, c := range b.curves {
		fmt.Fprintf(&s, "\n![%s](%s/%s.svg)\n", c.title, folder, c.file)
	}
	return s.String()
}

// reasons are what stands against the targets that are not met.
func (b *bench) reasons(s *strings.Builder) {
	said := map[string]bool{"": true}
	for _, l := range b.lines {
		if l.target == nil || strings.HasPrefix(l.verdict(), "met") || said[l.target.why] {
			continue
		}
		if len(said) == 1 {
			s.WriteString("\nWhat stands against the others, with lines of this run:\n\n")
		}
		said[l.target.why] = true
		fmt.Fprintf(s, "- %s (%s): %s\n", l.what, l.target, l.target.why)
	}
}

// section is an axis' part of the page.
func (b *bench) section(s *strings.Builder, a axis) {
	first := true
	for _, l := range b.lines {
		if l.axis != a.title || l.target != nil {
			continue
		}
		if first {
			fmt.Fprintf(s, "\n## %s\n\n%s\n\n| what | beside | measured | 95 %% | quartiles | n | rate |\n|---|---|---|---|---|---|---|\n", a.title, a.text)
			first = false
		}
		fmt.Fprintf(s, "| %s | %s | %s | %s … %s | %s … %s | %d | %s |\n", l.what, l.beside, l.figure(l.got.median),
			l.figure(l.got.low), l.figure(l.got.top), l.figure(l.got.q1), l.figure(l.got.q3), l.got.n, l.rate)
	}
}

// method says how to read the page.
const method = `A figure without a unit is the ratio of two rates. It is the median of many pairs: slices of 100 ms, one with and one without,
in changing order, each pair compared with itself. The interval holds the true median with 95 % certainty. "met" and "not met" are said
where the whole interval is on one side of the target; else it says where the median is. Rates are for each second of CPU that both ends
used, which other work on the machine changes least.`

// machine names what the figures were taken on.
func machine() string {
	var uts unix.Utsname
	kernel := "unknown kernel"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:])
	}
	load := ""
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = ", load " + strings.Fields(string(b))[0] + " at the end"
	}
	return fmt.Sprintf("%d × %s, %s, %s%s", runtime.NumCPU(), processor(), kernel, runtime.Version(), load)
}

// processor is the CPU's name, as far as the kernel knows it.
func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
