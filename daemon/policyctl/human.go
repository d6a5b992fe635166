package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/podwall/podwall/internal/api"
)

// ago is how long before now t was, in at most two units; empty for no time.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	if d := now.Sub(t); d >= time.Second {
		return span2(d) + " ago"
	}
	return "just now" // or a clock was set back
}

// span2 is d in its two largest units.
func span2(d time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		s := fmt.Sprintf("%d%s", d/u.size, u.name)
		if i+1 < len(units) {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				s += fmt.Sprintf("%d%s", rest, units[i+1].name)
			}
		}
		return s
	}
	return "0s"
}

// took is a short duration in the unit that fits.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// octets is n bytes in binary units.
func octets(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/1024, "KMGTPE"
	for f >= 1023.95 && len(units) > 1 { // what would print as 1024.0
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, units[0])
}

// count is n with its thousands apart.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// many is "1 pod", "2 pods", "no pods".
func many(n uint64, one, more string) string {
	switch n {
	case 0:
		return "no " + more
	case 1:
		return "1 " + one
	}
	return count(n) + " " + more
}

// state is s in the colour of how good it is.
func state(s api.State) text {
	switch s {
	case api.StateEnforced:
		return green.in(string(s))
	case api.StatePending:
		return yellow.in(string(s))
	}
	return red.in(string(s))
}

// short cuts a name that nobody reads to its end, as runtimes do.
func short(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
