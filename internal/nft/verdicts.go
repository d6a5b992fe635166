package nft

import (
	"bytes"
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// mapOf is s, which was read as a set, with the blocks that its elements lead to.
// What is no jump gives an empty name, which no block has.
func mapOf(s ruleset.Set, elems []nftables.SetElement) ruleset.Set {
	targets := make(map[string]string, len(elems))
	for _, e := range elems {
		targets[string(e.Key)] = jumpsTo(e.Val)
	}
	s.Targets = make([]string, len(s.Elements))
	for i, p := range s.Elements {
		s.Targets[i] = targets[string(p.Addr().AsSlice())]
	}
	return s
}

// jumpsTo reads the verdict of a map's element, which the library leaves as it
// came: attributes of a code and a chain's name.
func jumpsTo(b []byte) string {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return ""
	}
	ad.ByteOrder = binary.BigEndian
	var code int32
	var chain []byte
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			code = int32(ad.Uint32())
		case unix.NFTA_VERDICT_CHAIN:
			chain = bytes.TrimRight(ad.Bytes(), "\x00")
		}
	}
	if ad.Err() != nil || code != int32(expr.VerdictJump) {
		return ""
	}
	return string(chain)
}
