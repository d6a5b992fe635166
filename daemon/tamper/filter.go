package tamper

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// generationsOnly lets the kernel drop every notification about nftables but the
// one that ends a transaction: a new pod's thousand set elements wake nobody up.
// The kernel sends that one by itself; the others it may send several at once,
// of which the filter sees the first.
func generationsOnly() ([]bpf.RawInstruction, error) {
	const kind, size, all = 4, 2, 1 << 18 // of struct nlmsghdr, in the sender's byte order
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: kind, Size: size},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, newGen))), SkipFalse: 1},
		bpf.RetConstant{Val: all},
		bpf.RetConstant{Val: 0},
	})
}
