package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// A device is the attachment's interface as rules name it.
type device struct {
	index int
	name  string
}

// native and network write integers as the two kinds of register hold them.
func native(v uint32) []byte  { return binary.NativeEndian.AppendUint32(nil, v) }
func network(v uint32) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
func octet(v uint32) []byte   { return []byte{byte(v)} }

// line returns the expressions of one nftables rule; inKernel gives the name
// that a set has there. Above each pattern stands what nft prints for it.
func (d device) line(l ruleset.Line, inKernel func(string) string) []expr.Any {
	var e []expr.Any
	for _, c := range l.Conds {
		if c.Set != "" {
			c.Set = inKernel(c.Set)
		}
		e = append(e, d.cond(c)...)
	}
	if l.Mark != (ruleset.MarkOp{}) {
		// ct mark set ct mark & And | Or
		e = append(e,
			&expr.Ct{Register: 1, Key: expr.CtKeyMARK},
			bitwise(l.Mark.And&^l.Mark.Or, l.Mark.Or),
			&expr.Ct{Register: 1, Key: expr.CtKeyMARK, SourceRegister: true})
	}
	if l.Counter != "" {
		e = append(e, &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: l.Counter})
	}
	if l.Verdict.Kind == ruleset.VerdictMap { // ct original ip saddr vmap @map
		return append(e, tuple(l.Verdict.Key),
			&expr.Lookup{SourceRegister: 1, SetName: inKernel(l.Verdict.Target), IsDestRegSet: true})
	}
	if l.Log != "" { // log prefix Log group LogGroup
		e = append(e, &expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: ruleset.LogGroup, Data: []byte(l.Log)})
	}
	return append(e, verdict(l.Verdict)...)
}

func bitwise(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func equals(b []byte) *expr.Cmp  { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }
func differs(b []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: b} }

func meta(k expr.MetaKey) *expr.Meta { return &expr.Meta{Register: 1, Key: k} }

// between compares register 1, which encode writes, with c's range.
func between(c ruleset.Cond, encode func(uint32) []byte) []expr.Any {
	if c.First == c.Last {
		return []expr.Any{equals(encode(c.First))}
	}
	return []expr.Any{
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: encode(c.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: encode(c.Last)},
	}
}

func (d device) cond(c ruleset.Cond) []expr.Any {
	switch c.Key {
	case ruleset.KeyNotIn: // iif != "eth0" iifname != "eth0"
		return d.not(expr.MetaKeyIIF, expr.MetaKeyIIFNAME)
	case ruleset.KeyNotOut:
		return d.not(expr.MetaKeyOIF, expr.MetaKeyOIFNAME)
	case ruleset.KeyLoopback: // iif "lo", which has index 1 in every namespace
		return []expr.Any{meta(expr.MetaKeyIIF), equals(native(1))}
	case ruleset.KeyMark: // ct mark & Mask == First
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyMARK}, bitwise(c.Mask, 0), equals(native(c.First))}
	case ruleset.KeyNew: // ct state new
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, bitwise(expr.CtStateBitNEW, 0), differs(native(0))}
	case ruleset.KeyNoSYN: // tcp flags & syn == 0
		return append(protocol(unix.IPPROTO_TCP),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: octet(0x02), Xor: octet(0)},
			equals(octet(0)))
	case ruleset.KeyProto: // meta l4proto tcp
		return protocol(c.First)
	case ruleset.KeyICMPv6: // icmpv6 type First-Last
		e := append([]expr.Any{meta(expr.MetaKeyNFPROTO), equals(octet(unix.NFPROTO_IPV6))}, protocol(unix.IPPROTO_ICMPV6)...)
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1})
		return append(e, between(c, octet)...)
	case ruleset.KeyBeyond: // limit name Limit
		return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_LIMIT, Name: c.Limit}}
	case ruleset.KeyFromProcess: // meta skuid != 0xffffffff
		return []expr.Any{meta(expr.MetaKeySKUID), differs(native(0xffff_ffff))}
	case ruleset.KeyIPOption: // ip option lsrr exists
		return []expr.Any{meta(expr.MetaKeyNFPROTO), equals(octet(unix.NFPROTO_IPV4)),
			&expr.Exthdr{DestRegister: 1, Type: uint8(c.First), Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: exthdrIPv4},
			equals(octet(1))}
	case ruleset.KeyRouted: // meta rtclassid != 0xffffffff
		return []expr.Any{meta(expr.MetaKeyRTCLASSID), differs(native(0xffff_ffff))}
	case ruleset.KeyEtherType: // @ll,96,16 First
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2},
			equals(network(c.First))}
	case ruleset.KeyARPSender, ruleset.KeySource4, ruleset.KeySource6:
		return frame(c)
	case ruleset.KeyDirection: // ct direction original
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, equals(octet(c.First))}
	}
	load := tuple(c.Key)
	if c.Set != "" { // ct original ip saddr @set
		return []expr.Any{load, &expr.Lookup{SourceRegister: 1, SetName: c.Set}}
	}
	return append([]expr.Any{load}, between(c, network)...)
}

// exthdrIPv4 is NFT_EXTHDR_OP_IPV4 of linux/netfilter/nf_tables.h.
const exthdrIPv4 expr.ExthdrOp = 2

func protocol(p uint32) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), equals(octet(p))}
}

func (d device) not(index, name expr.MetaKey) []expr.Any {
	n := make([]byte, unix.IFNAMSIZ)
	copy(n, d.name)
	return []expr.Any{meta(index), differs(native(uint32(d.index))), meta(name), differs(n)}
}

// frame compares a block of addresses with the bytes of a frame:
// @nh,96,32 0x0a000002, or @nh,64,16 & 0xffc0 == 0xfe80.
func frame(c ruleset.Cond) []expr.Any {
	offset := map[ruleset.Key]uint32{ruleset.KeyARPSender: 14, ruleset.KeySource4: 12, ruleset.KeySource6: 8}[c.Key]
	value, bits := c.Addr.Addr().AsSlice(), c.Addr.Bits()
	load := func(n int) *expr.Payload {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(n)}
	}
	if bits%8 == 0 {
		return []expr.Any{load(bits / 8), equals(value[:bits/8])}
	}
	n := (bits + 15) / 16 * 2
	mask := make([]byte, n)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{load(n),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n), Mask: mask, Xor: make([]byte, n)},
		equals(value[:n])}
}

// tuple loads a part of the connection's addresses and ports. The address keys
// fail, and with them the rule, on a connection of the other family.
func tuple(k ruleset.Key) *expr.Ct {
	c := &expr.Ct{Register: 1}
	switch k {
	case ruleset.KeyOrigSaddr4, ruleset.KeyReplySaddr4:
		c.Key = expr.CtKeySRCIP
	case ruleset.KeyOrigSaddr6, ruleset.KeyReplySaddr6:
		c.Key = expr.CtKeySRCIP6
	case ruleset.KeyOrigDport:
		c.Key = expr.CtKeyPROTODST
	case ruleset.KeyOrigSport, ruleset.KeyReplySport:
		c.Key = expr.CtKeyPROTOSRC
	default:
		panic(fmt.Sprintf("key %d is no part of a connection", k))
	}
	switch k {
	case ruleset.KeyReplySaddr4, ruleset.KeyReplySaddr6, ruleset.KeyReplySport:
		c.Direction = ruleset.DirectReply
	}
	return c
}

func verdict(v ruleset.Verdict) []expr.Any {
	switch v.Kind {
	case ruleset.VerdictAccept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case ruleset.VerdictGoto:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: v.Target}}
	case ruleset.VerdictJump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: v.Target}}
	case ruleset.VerdictContinue:
		return nil
	}
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
}

// comment is s as a rule's user data.
func comment(s string) []byte {
	if s == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, s)
}

// fingerprint writes a rule so that two rules the kernel treats alike, and that
// carry the same comment, give the same string. The editions of sets, and their
// numbers, which change with each transaction, are left out.
func fingerprint(exprs []expr.Any, user []byte) string {
	var b strings.Builder
	for _, e := range exprs {
		if l, ok := e.(*expr.Lookup); ok {
			e = &expr.Lookup{SourceRegister: l.SourceRegister, DestRegister: l.DestRegister,
				IsDestRegSet: l.IsDestRegSet, SetName: baseName(l.SetName), Invert: l.Invert}
		}
		fmt.Fprintf(&b, "%T%+v ", e, e)
	}
	if c, ok := userdata.GetString(user, userdata.TypeComment); ok {
		fmt.Fprintf(&b, "# %s", c)
	}
	return b.String()
}
