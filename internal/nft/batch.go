package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// A batch is one transaction in one table as the kernel reads it: messages of
// linux/netfilter/nf_tables.h between two of linux/netfilter/nfnetlink.h.
type batch struct {
	b      []byte
	family uint8
	seq    uint32
	last   int // where the last message begins
}

// What a message is about.
const (
	addElements    = unix.NFT_MSG_NEWSETELEM
	deleteElements = unix.NFT_MSG_DELSETELEM
)

// begin begins a batch that the kernel takes only if the namespace's generation is
// the given one. What was in b is forgotten.
func (b *batch) begin(f ruleset.Family, generation uint32) {
	*b = batch{b: b.b[:0], family: uint8(tableOf(f).Family)}
	b.border(unix.NFNL_MSG_BATCH_BEGIN, func() { b.bytes(unix.NFNL_BATCH_GENID, binary.BigEndian.AppendUint32(nil, generation)) })
}

func (b *batch) border(kind uint16, body func()) {
	b.header(kind, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, body)
}

// message adds a message about something in podwall's table.
func (b *batch) message(kind, flags uint16, body func()) {
	b.last = len(b.b)
	b.header(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_REQUEST|flags, b.family, 0, body)
}

// header writes a struct nlmsghdr and a struct nfgenmsg before body.
func (b *batch) header(kind, flags uint16, family uint8, res uint16, body func()) {
	at := len(b.b)
	b.b = append(b.b, 0, 0, 0, 0) // the length
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.NativeEndian.AppendUint16(b.b, flags)
	b.b = binary.NativeEndian.AppendUint32(b.b, b.seq)
	b.b = append(b.b, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	b.b = binary.BigEndian.AppendUint16(b.b, res)
	b.seq++
	body()
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
}

// nest adds an attribute that is made of others.
func (b *batch) nest(kind uint16, body func()) {
	at := len(b.b)
	b.b = append(b.b, 0, 0) // the length
	b.b = binary.NativeEndian.AppendUint16(b.b, kind|unix.NLA_F_NESTED)
	body()
	binary.NativeEndian.PutUint16(b.b[at:], uint16(len(b.b)-at))
}

// bytes adds an attribute.
func (b *batch) bytes(kind uint16, data []byte) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(unix.SizeofNlAttr+len(data)))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = append(b.b, data...)
	b.pad()
}

func (b *batch) text(kind uint16, s string) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(unix.SizeofNlAttr+len(s)+1))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = append(append(b.b, s...), 0)
	b.pad()
}

func (b *batch) number(kind uint16, n uint32) { b.bytes(kind, binary.BigEndian.AppendUint32(nil, n)) }

func (b *batch) pad() {
	for len(b.b)%unix.NLA_ALIGNTO != 0 {
		b.b = append(b.b, 0)
	}
}

// elements adds elements to a set, or deletes them from it.
func (b *batch) elements(kind uint16, set string, list []nftables.SetElement) {
	if len(list) == 0 {
		return
	}
	b.message(kind, unix.NLM_F_CREATE, func() {
		b.text(unix.NFTA_SET_ELEM_LIST_TABLE, ruleset.TableName)
		b.text(unix.NFTA_SET_ELEM_LIST_SET, set)
		b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for _, e := range list {
				b.nest(unix.NFTA_LIST_ELEM, func() { b.element(e) })
			}
		})
	})
}

func (b *batch) element(e nftables.SetElement) {
	b.nest(unix.NFTA_SET_ELEM_KEY, func() { b.bytes(unix.NFTA_DATA_VALUE, e.Key) })
	if e.IntervalEnd {
		b.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if v := e.VerdictData; v != nil {
		b.nest(unix.NFTA_SET_ELEM_DATA, func() {
			b.nest(unix.NFTA_DATA_VERDICT, func() {
				b.number(unix.NFTA_VERDICT_CODE, uint32(v.Kind))
				b.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
			})
		})
	}
	if e.IntervalOpen {
		b.bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_ELEM_FLAGS, userdata.NFTNL_UDATA_SET_ELEM_F_INTERVAL_OPEN))
	}
}

// flush deletes the rules of a chain.
func (b *batch) flush(chain string) {
	b.message(unix.NFT_MSG_DELRULE, 0, func() {
		b.text(unix.NFTA_RULE_TABLE, ruleset.TableName)
		b.text(unix.NFTA_RULE_CHAIN, chain)
	})
}

// rule adds a rule to a chain, behind those that it has.
func (b *batch) rule(chain string, exprs []expr.Any, user []byte) (err error) {
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func() {
		b.text(unix.NFTA_RULE_TABLE, ruleset.TableName)
		b.text(unix.NFTA_RULE_CHAIN, chain)
		b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
			for _, e := range exprs {
				attrs, failed := expr.Marshal(b.family, e)
				err = errors.Join(err, failed)
				b.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, attrs)
			}
		})
		if len(user) > 0 {
			b.bytes(unix.NFTA_RULE_USERDATA, user)
		}
	})
	return err
}

// end completes the batch, whose last message the kernel is to answer.
func (b *batch) end() []byte {
	flags := b.b[b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	b.border(unix.NFNL_MSG_BATCH_END, func() {})
	return b.b
}

// commit carries b out in a namespace, or leaves everything as it is.
func (r *Round) commit(netns int, b *batch) error {
	fd, err := r.home.socketIn(netns)
	if err != nil {
		return err
	}
	defer r.closeLater(fd)
	if err := unix.Sendto(fd, b.end(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send a transaction: %w", err)
	}
	return answered(fd)
}

// answered reads what the kernel has said about a transaction, which it does before
// sending returns: each message that failed, or the one that was to be answered.
func answered(fd int) error {
	buf := make([]byte, 256) // the rest repeats what was sent
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	if err != nil {
		return fmt.Errorf("read the kernel's answer: %w", err)
	}
	const header = unix.SizeofNlMsghdr
	if n < header+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("the kernel answered a transaction with %d bytes that are no verdict", n)
	}
	if errno := int32(binary.NativeEndian.Uint32(buf[header:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}
