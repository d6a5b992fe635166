package main

import "testing"

// Beside little in use a fixed amount of garbage may gather, beside much a share.
func TestPercent(t *testing.T) {
	for inUse, want := range map[uint64]int{0: readAtMost, 16 << 20: 50, 100 << 20: readGarbage} {
		if got := readPercent(inUse); got != want {
			t.Errorf("while reading, beside %d MiB: %d %%, want %d", inUse>>20, got, want)
		}
	}
	for inUse, want := range map[uint64]int{0: 2400, 12 << 20: 200, 60 << 20: garbage, 1 << 40: garbage} {
		if got := percent(inUse); got != want {
			t.Errorf("beside %d MiB: %d %%, want %d", inUse>>20, got, want)
		}
	}
}
