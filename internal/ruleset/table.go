package ruleset

import "net/netip"

// A Table is a rule set in the shape of nftables: what one attachment
// contributes to the table of its network namespace. Lower makes it; Text and
// package nft are two encoders of it that share no code.
//
// A namespace with several attachments has one nftables table with the objects
// of each; the name of every object starts with its attachment's interface.
type Table struct {
	Family    Family
	Interface string
	Epoch     Epoch
	Counters  []string // names
	Limits    []Limit
	Sets      []Set   // of addresses
	Blocks    []Block // nftables calls them chains; a Chain here is a policy's
}

// A Family is the nftables family of a table. podwall has one of each in a pod's
// namespace, of the same name.
type Family uint8

const (
	Inet   Family = iota // judges flows
	Netdev               // guards the device
)

var familyNames = [...]string{Inet: "inet", Netdev: "netdev"}

// String is the family as nft writes it.
func (f Family) String() string { return familyNames[f] }

// TableName is the name of the nftables tables that podwall owns in a pod's
// network namespace.
const TableName = "podwall"

// Prefix starts the names of all objects of the attachment on interface iface.
// nft reads no name that begins with anything but a letter.
func Prefix(iface string) string {
	if s := ident(iface, maxInterface); 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z' {
		return s + "/"
	}
	return digest(iface) + "/"
}

// AcceptBlock ends the name of the one block of each attachment that stamps
// connections with its epoch.
const AcceptBlock = "/accept"

// A Set is a named set of addresses of one family or, with Targets, a map from
// addresses to blocks.
type Set struct {
	Name     string
	V6       bool
	Interval bool           // holds prefixes; otherwise only single addresses
	Elements []netip.Prefix // canonical, as Peers has them
	Targets  []string       // of a map: the block that each of Elements jumps to
	// Denies says that being in the set may cost a flow its acceptance: it is a
	// rule's that drops or passes on.
	Denies bool
}

// A Limit is a named limit, which all lines that name it share.
type Limit struct {
	Name        string
	Rate, Burst uint32 // packets a second, and at once
}

// A Hook is where the kernel calls a block.
type Hook uint8

const (
	NoHook       Hook = iota // called by other blocks only
	Prerouting               // priority mangle: after connection tracking, before destination NAT
	Postrouting              // priority filter: after every destination NAT, when the device is final
	DeviceEgress             // of the attachment's device, in a table of family netdev; priority filter
)

// A Block is an nftables chain. Every hooked block has policy drop.
type Block struct {
	Name  string
	Hook  Hook
	Lines []Line
}

// A Line is one nftables rule: if all Conds hold, set the connection's mark,
// count the packet, log it, and give the verdict.
type Line struct {
	Conds   []Cond
	Mark    MarkOp
	Counter string // name of a counter; empty counts nothing
	Log     string // prefix of what is logged to LogGroup; empty logs nothing
	Verdict Verdict
	Comment string // at most MaxComment bytes
}

// MaxComment is the longest comment the kernel takes; one byte more and it
// refuses the whole transaction.
const MaxComment = 128

// A MarkOp sets the connection mark to (mark & And) | Or. The zero MarkOp
// leaves it alone.
type MarkOp struct{ And, Or uint32 }

// A Verdict is what a line does with the packet in the end.
type Verdict struct {
	Kind   VerdictKind
	Target string // the block of VerdictGoto and VerdictJump, the map of VerdictMap
	Key    Key    // what VerdictMap looks up
}

// A VerdictKind is the kind of a Verdict. The zero VerdictKind drops.
type VerdictKind uint8

const (
	VerdictDrop VerdictKind = iota
	VerdictAccept
	VerdictGoto
	VerdictJump
	VerdictContinue // on to the next line
	VerdictMap      // what a map says of an address; on to the next line if it says nothing
)

// A Cond is one condition on a packet or its connection.
type Cond struct {
	Key         Key
	First, Last uint32       // the value lies between them, both included
	Mask        uint32       // for KeyMark: compare only these bits, with First
	Set         string       // for the address keys: the value is in this set
	Limit       string       // for KeyBeyond
	Addr        netip.Prefix // for the keys of frames: the value is in this block
}

// A Key is what a Cond looks at.
type Key uint8

const (
	// KeyNotIn and KeyNotOut hold for packets that do not come in, or go out,
	// through the attachment's device. They look at both its index and its name,
	// so that neither renaming it nor putting another in its place escapes.
	KeyNotIn Key = iota + 1
	KeyNotOut
	KeyLoopback   // no value: the packet came in through loopback
	KeyMark       // the connection's mark
	KeyNew        // no value: the connection is new
	KeyNoSYN      // no value: a TCP segment without the SYN flag
	KeyProto      // the packet's protocol
	KeyICMPv6     // the ICMPv6 type; says by itself that the packet is ICMPv6
	KeyDirection  // of the packet in its connection: First is a Direct… constant
	KeyOrigSaddr4 // who opened the connection
	KeyOrigSaddr6
	KeyReplySaddr4 // the connection's true far end, after any NAT in the pod
	KeyReplySaddr6
	KeyOrigSport
	KeyOrigDport
	KeyReplySport

	KeyFromProcess // no value: a process sent the packet, not the kernel by itself
	KeyIPOption    // the packet has the IPv4 option of number First

	KeyBeyond // the packet is more than Limit allows

	// Of frames, in a table of family netdev:

	KeyRouted    // no value: the IP stack found a route for the packet
	KeyEtherType // the frame's type, as it is on the wire
	KeyARPSender // the sender's address in an ARP frame
	KeySource4   // the source address in an IPv4 frame
	KeySource6
)

// Directions of a packet within its connection, as the kernel numbers them.
const (
	DirectOriginal = 0
	DirectReply    = 1
)
