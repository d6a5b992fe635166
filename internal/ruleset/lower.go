package ruleset

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Lower returns rs as the nftables objects of the attachment on interface iface.
// Equal inputs give equal tables.
//
//	hook        block               packet's direction    judged by
//	prerouting  eth0/prerouting ──┬─ original ──────────▶ eth0/ingress
//	                              └─ reply ─────┐  ┌────▶ eth0/egress
//	postrouting eth0/postrouting ─┬─ original ──┼──┘
//	                              └─ reply ─────┴───────▶ eth0/ingress
//
// Each hook first accepts connections that the present epoch has accepted already.
// A block of its own (anew) then lets go what is not the attachment's, and passes
// neighbour discovery. The rest is judged by who opened the connection, on the connection's addresses and
// ports and not the packet's, so that a packet in either direction meets the
// same rules as its flow's first one, whatever NAT happened inside the pod.
func (rs RuleSet) Lower(iface string, epoch Epoch) Table { return rs.LowerBy(iface, epoch, Hosts) }

// LowerBy is Lower for who has a quicker way to tell Hosts: many rule sets share
// their long lists.
func (rs RuleSet) LowerBy(iface string, epoch Epoch, hosts func([]netip.Prefix) bool) Table {
	l := lowerer{rs: rs, hosts: hosts, prefix: Prefix(iface), table: Table{Interface: iface, Epoch: epoch},
		sets: map[string]Set{}, maps: map[string]string{}, leaves: map[string]bool{}}
	l.hooks()
	for _, s := range []side{arriving, leaving} {
		l.chain(s)
	}
	if rs.Adopted != NotAdopted {
		for _, s := range []side{arrivingUnseen, leavingUnseen} {
			l.chain(s)
		}
	}
	l.neighbours()
	l.table.Blocks = append(l.table.Blocks, l.logs...)
	l.accept()
	l.tidy()
	return l.table
}

// A side is where one direction's flows carry the far end's address and the
// port they were opened to.
type side struct {
	dir          Direction
	addr4, addr6 Key
	port         Key
	unseen       bool // the tuple is the wrong way round: its first packet was a reply
}

var (
	arriving = side{dir: Ingress, addr4: KeyOrigSaddr4, addr6: KeyOrigSaddr6, port: KeyOrigDport}
	leaving  = side{dir: Egress, addr4: KeyReplySaddr4, addr6: KeyReplySaddr6, port: KeyReplySport}
	// A flow that the far end opened before it was tracked, first seen leaving,
	// and the other way round.
	arrivingUnseen = side{dir: Ingress, addr4: KeyReplySaddr4, addr6: KeyReplySaddr6, port: KeyOrigSport, unseen: true}
	leavingUnseen  = side{dir: Egress, addr4: KeyOrigSaddr4, addr6: KeyOrigSaddr6, port: KeyOrigSport, unseen: true}
)

// block is the name of the block that judges s.
func (s side) block() string {
	if s.unseen {
		return s.dir.String() + "-unseen"
	}
	return s.dir.String()
}

// A lowerer builds one Table.
type lowerer struct {
	rs     RuleSet
	hosts  func([]netip.Prefix) bool
	prefix string // of every name; ends in a slash
	table  Table
	logs   []Block           // that log what is refused
	sets   map[string]Set    // of single addresses and blocks of them, by name
	maps   map[string]string // names of maps, by the sets they are made of
	leaves map[string]bool   // rules that have a block of their own, by its name
}

func (l *lowerer) name(parts ...string) string {
	return l.prefix + strings.Join(parts, "/")
}

func (l *lowerer) add(b Block) { l.table.Blocks = append(l.table.Blocks, b) }

func (l *lowerer) counter(name string) string { return l.table.counter(name) }

// The helpers below are the words of a line.

func accept() Verdict             { return Verdict{Kind: VerdictAccept} }
func drop() Verdict               { return Verdict{Kind: VerdictDrop} }
func goTo(block string) Verdict   { return Verdict{Kind: VerdictGoto, Target: block} }
func jumpTo(block string) Verdict { return Verdict{Kind: VerdictJump, Target: block} }
func is(k Key, v uint32) Cond     { return Cond{Key: k, First: v, Last: v} }
func in(k Key, set string) Cond   { return Cond{Key: k, Set: set} }
func mark(v, mask uint32) Cond    { return Cond{Key: KeyMark, First: v, Last: v, Mask: mask} }

const protoICMPv6 = 58

// hooks adds the two blocks that the kernel calls. What leaves is judged in
// postrouting, since only there is the device final: in output the kernel still
// names the one from before a redirect, a DNAT or a mark sent the packet another
// way.
func (l *lowerer) hooks() {
	l.hook("prerouting", Prerouting, KeyNotIn, arriving, leaving, leavingUnseen, arrivingUnseen)
	l.hook("postrouting", Postrouting, KeyNotOut, leaving, arriving, arrivingUnseen, leavingUnseen)
}

// hook adds one of them, and the block behind it. The first is short and has all
// that names the epoch: whoever takes something away moves that, and 110 pods may
// be waiting for it.
//
// Packets in the direction of their connection's first packet are judged by
// original, replies by reply; where nobody saw the first packet, the other way
// round comes first and ends in these.
func (l *lowerer) hook(name string, h Hook, notOurs Key, original, reply, originalUnseen, replyUnseen side) {
	// The first line is what nearly every packet meets. Another device's packets
	// may take it, too: they pass either way.
	accepted := Line{Conds: []Cond{mark(l.table.Epoch.Mark(), epochMask)}, Verdict: accept(), Comment: "accepted in this epoch"}
	others := Line{Conds: []Cond{{Key: notOurs}}, Verdict: accept(), Comment: "another device"}
	first, rest, neighbours := []Line{accepted}, append(l.before(h), others), "neighbours"
	if h == Postrouting && !l.rs.RawSockets {
		neighbours = "neighbours-sent"
		if detours := l.detours(); len(detours) > 0 {
			first, rest = append(append([]Line{others}, detours...), accepted), nil
		}
	}
	anew := l.name(name, "anew")
	l.add(Block{Name: l.name(name), Hook: h, Lines: append(first, Line{Verdict: goTo(anew)})})
	rest = append(rest, Line{Conds: []Cond{is(KeyProto, protoICMPv6)}, Verdict: jumpTo(l.name(neighbours))})
	rest = append(rest, l.midstream(originalUnseen, replyUnseen)...)
	l.add(Block{Name: anew, Lines: append(append(rest, l.bySide(original, reply)...), l.untracked())})
}

// bySide judges packets of connections by the direction that they have in these.
func (l *lowerer) bySide(original, reply side, conds ...Cond) []Line {
	judge := func(direction uint32, by side) Line {
		return Line{Conds: append(slices.Clip(conds), is(KeyDirection, direction)), Verdict: goTo(l.name(by.block()))}
	}
	return []Line{judge(DirectOriginal, original), judge(DirectReply, reply)}
}

// midstream marks the flows that may be older than the rules, and judges them.
func (l *lowerer) midstream(original, reply side) []Line {
	if l.rs.Adopted == NotAdopted {
		return nil
	}
	may := func(conds ...Cond) Line {
		return Line{Conds: conds, Mark: MarkOp{And: ^midstream, Or: midstream}, Verdict: Verdict{Kind: VerdictContinue},
			Comment: "may be older than these rules"}
	}
	lines := []Line{may(Cond{Key: KeyNew}, Cond{Key: KeyNoSYN})}
	if l.rs.Adopted >= AdoptedNow {
		lines = append(lines, may(Cond{Key: KeyNew}, is(KeyProto, uint32(UDP))))
	}
	return append(lines, l.bySide(original, reply, mark(midstream, midstream))...)
}

// untracked ends a hook: what comes here belongs to no connection, so no policy
// can speak about it. Where no policy denies anything it passes.
func (l *lowerer) untracked() Line {
	line := Line{Counter: l.counter(UntrackedCounter(l.table.Interface)), Comment: "belongs to no connection"}
	if l.rs.open(Ingress) && l.rs.open(Egress) {
		line.Verdict, line.Comment = accept(), "belongs to no connection; nothing is denied here"
	} else {
		line.Verdict = l.refuse(Reason{Cause: CauseUntracked})
	}
	return line
}

// The IPv4 options that name the way a packet takes, loosely or strictly.
const (
	optionLSRR = 131
	optionSSRR = 137
)

// before marks what begins on loopback, where egress is restricted: see detours.
// A connection that bears somebody's mark is left alone, since it may be looked
// for as a whole (Istio's TPROXY does).
func (l *lowerer) before(h Hook) []Line {
	if h != Prerouting || l.rs.RawSockets || l.rs.open(Egress) {
		return nil
	}
	return []Line{{Conds: []Cond{{Key: KeyLoopback}, {Key: KeyNew}, mark(0, ^uint32(0))}, Mark: MarkOp{And: ^home, Or: home},
		Verdict: Verdict{Kind: VerdictContinue}, Comment: "begins in the pod"}}
}

// detours drops two ways round rules on the far end, where egress is restricted.
// A packet with a source route goes elsewhere than to its destination. And a
// process that sends itself a packet through loopback, with a far address as its
// source, would have the pod answer that address: a reply, as if the far end had
// opened the connection.
func (l *lowerer) detours() []Line {
	if l.rs.open(Egress) {
		return nil
	}
	counter, refused := l.counter(ForgedCounter(l.table.Interface)), l.refuse(Reason{Cause: CauseForged})
	var lines []Line
	for _, o := range []uint32{optionLSRR, optionSSRR} {
		lines = append(lines, Line{Conds: []Cond{is(KeyIPOption, o)}, Counter: counter, Verdict: refused, Comment: "goes elsewhere than it says"})
	}
	return append(lines, Line{Conds: []Cond{mark(home, home), is(KeyDirection, DirectReply)},
		Counter: counter, Verdict: refused, Comment: "answers what never came in"})
}

// neighbours accepts what IPv6 needs to work on a link at all. The kernel does
// not track it, so no rule on connections can match it. What leaves must be the
// kernel's own: a process would tell the link what it likes, or anybody else
// what no policy allows.
func (l *lowerer) neighbours() {
	var any, sent []Line
	refused := drop()
	if !l.rs.RawSockets {
		refused = l.refuse(Reason{Cause: CauseForged})
	}
	for _, r := range [][2]uint32{
		{130, 132}, // multicast listener query, report, done
		{133, 137}, // router and neighbour solicitation and advertisement, redirect
		{143, 143}, // multicast listener report, version 2
	} {
		kind := Cond{Key: KeyICMPv6, First: r[0], Last: r[1]}
		any = append(any, Line{Conds: []Cond{kind}, Verdict: accept()})
		sent = append(sent, Line{Conds: []Cond{kind, {Key: KeyFromProcess}},
			Counter: ForgedCounter(l.table.Interface), Verdict: refused, Comment: "neighbour discovery is the kernel's"})
	}
	l.add(Block{Name: l.name("neighbours"), Lines: any})
	if !l.rs.RawSockets {
		l.counter(ForgedCounter(l.table.Interface))
		l.add(Block{Name: l.name("neighbours-sent"), Lines: append(sent, Line{Verdict: goTo(l.name("neighbours"))})})
	}
}

// accept stamps the connection with the epoch, so that its later packets take
// the second line of the hook.
func (l *lowerer) accept() {
	stamp := Line{Mark: MarkOp{And: midstream | home | othersMask, Or: l.table.Epoch.Mark()}, Verdict: accept()}
	lines := []Line{stamp}
	if l.rs.Log.Accepts {
		lines[0].Verdict = Verdict{Kind: VerdictContinue}
		lines = append(append(lines, l.accepting()...), Line{Verdict: accept()})
	}
	l.add(Block{Name: l.name("accept"), Lines: lines})
}

// ident returns s if nft can read it as part of a name and it has at most max
// bytes; otherwise a short name that no other string gets.
func ident(s string, max int) string {
	clean := func(r rune) bool {
		return r < 0x80 && (r == '-' || r == '.' || r == '_' ||
			'0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if s != "" && len(s) <= max && !strings.ContainsFunc(s, func(r rune) bool { return !clean(r) }) &&
		!strings.HasPrefix(s, hashMark) {
		return s
	}
	return digest(s)
}

// digest is a name that begins with a letter, and that no other string gets.
func digest(s string) string {
	return fmt.Sprintf("%s%x", hashMark, sha256.Sum256([]byte(s)))[:len(hashMark)+24]
}

// The parts of interface/direction/tier/namespace/name/index.match/family may be
// as long as these for the whole to stay below the kernel's 255 bytes.
const (
	maxInterface = 15
	maxTier      = 8
	maxNamespace = 63
	maxName      = 90
	hashMark     = "x-sha256-"
)

// note cuts s to what fits into a comment, at the boundary of a character, and
// replaces what nft could not read back.
func note(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
	const more = "..."
	if len(s) <= MaxComment-1 {
		return s
	}
	cut := MaxComment - 1 - len(more)
	for cut > 0 && s[cut]&0xc0 == 0x80 {
		cut--
	}
	return s[:cut] + more
}

// wants reports whether the table has lines for a family: where the attachment
// has an address of it, even if no peer does yet, or ps has any.
func (rs *RuleSet) wants(v6 bool, ps []netip.Prefix) bool {
	return len(ps) > 0 || slices.ContainsFunc(rs.Addresses, func(a netip.Addr) bool { return a.Is6() == v6 })
}
