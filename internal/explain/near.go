package explain

import (
	"slices"
	"strings"
)

// suggestions is how many names Near returns at most.
const suggestions = 3

// Near returns those of known that someone who wrote name perhaps meant: the
// names fewest letters off, if these are few, and those whose last part it is.
func Near(name string, known []string) []string {
	least := max(1, len(name)/3)
	var near []string
	for _, k := range known {
		d := distance(name, k)
		if last(k) == last(name) {
			d = min(d, 1) // the right name in another namespace, or in none
		}
		if d < least {
			near, least = nil, d
		}
		if d == least {
			near = append(near, k)
		}
	}
	slices.Sort(near)
	near = slices.Compact(near)
	return near[:min(len(near), suggestions)]
}

// last is the part of a name behind its namespace.
func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// distance is the number of letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
