package nft_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/podwall/podwall/internal/nft"
)

// An interface is known by its index, whatever it is called.
func TestNameFollowsTheIndex(t *testing.T) {
	ns := pod(t)
	index, err := nft.Index(ns.FD(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"eth0", "x"} {
		ns.Run(t, "ip link set eth0 name "+want+" 2>/dev/null || true")
		if got, err := nft.Name(ns.FD(), index); err != nil || got != want {
			t.Errorf("interface %d is %q, %v; want %q", index, got, err, want)
		}
	}
	ns.Run(t, "ip link delete x")
	if got, err := nft.Name(ns.FD(), index); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an interface that is gone is called %q, %v", got, err)
	}
}
