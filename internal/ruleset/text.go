package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Text is rs as nft text for interface iface, in its first epoch: what
// `policyctl compile` prints and `nft -f` loads in a namespace that has iface.
func (rs RuleSet) Text(iface string) string {
	text := rs.Lower(iface, 1).Text()
	if guard := rs.Guard(iface); len(guard.Blocks) > 0 {
		text += "\n" + guard.Text()
	}
	return text
}

// Text is t in the language of nft, in the order in which a person asks: what a
// packet meets, then the sets it is looked up in, then the counters.
func (t Table) Text() string {
	var parts []string
	for _, c := range t.Blocks {
		parts = append(parts, t.about(c)+c.text(t.Interface))
	}
	for _, s := range t.Sets {
		parts = append(parts, s.text())
	}
	counters := make([]string, len(t.Counters))
	for i, c := range t.Counters {
		counters[i] = fmt.Sprintf("\tcounter %s { }\n", c)
	}
	for _, l := range t.Limits {
		parts = append(parts, l.text())
	}
	parts = append(parts, strings.Join(counters, ""))
	title := fmt.Sprintf("The firewall of %s in epoch %d.", note(t.Interface), t.Epoch)
	if t.Family == Netdev {
		title = fmt.Sprintf("What leaves through %s at all.", note(t.Interface))
	}
	return fmt.Sprintf("# %s\ntable %s %s {\n%s}\n", title, t.Family, TableName, strings.Join(parts, "\n"))
}

// aboutText says in a comment what the blocks are for that every table has.
var aboutText = map[string]string{
	"prerouting":       "packets that arrive",
	"prerouting/anew":  "those of connections that the epoch has not accepted",
	"postrouting":      "packets that leave, the pod's own and those it passes on",
	"postrouting/anew": "those of connections that the epoch has not accepted",
	"ingress":          "flows that the far end opens",
	"egress":           "flows that the pod opens",
	"ingress-unseen":   "flows older than the rules, which the far end may have opened",
	"egress-unseen":    "flows older than the rules, which the pod may have opened",
	"neighbours":       "what IPv6 needs to work on a link; it belongs to no connection",
	"guard":            "frames, also those that never met the rules on packets",
	"neighbours-sent":  "the kernel's own only",
	"accept":           "lets the connection's later packets pass as long as the epoch lasts",
}

func (t Table) about(b Block) string {
	text, ok := aboutText[strings.TrimPrefix(b.Name, Prefix(t.Interface))]
	if !ok {
		return ""
	}
	return "\t# " + text + "\n"
}

// text is l, which is met by what is beyond it.
func (l Limit) text() string {
	return fmt.Sprintf("\tlimit %s { rate over %d/second burst %d packets }\n", l.Name, l.Rate, l.Burst)
}

func (s Set) text() string {
	var b strings.Builder
	kind := "ipv4_addr"
	if s.V6 {
		kind = "ipv6_addr"
	}
	if s.Targets == nil {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.Name, kind)
	} else {
		fmt.Fprintf(&b, "\tmap %s {\n\t\ttype %s : verdict\n", s.Name, kind)
	}
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	elems := make([]string, len(s.Elements))
	for i, p := range s.Elements {
		elems[i] = elementText(p)
		if s.Targets != nil {
			elems[i] += " : jump " + s.Targets[i]
		}
	}
	b.WriteString(elementsText(elems))
	b.WriteString("\t}\n")
	return b.String()
}

func elementText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// elementsText lists elements in lines that a person can read.
func elementsText(elems []string) string {
	if len(elems) == 0 {
		return ""
	}
	const width = 80
	var b strings.Builder
	b.WriteString("\t\telements = { ")
	line := 0
	for i, e := range elems {
		switch {
		case i == 0:
		case line+len(e) > width:
			b.WriteString(",\n\t\t\t     ")
			line = 0
		default:
			b.WriteString(", ")
		}
		b.WriteString(e)
		line += len(e) + len(", ")
	}
	b.WriteString(" }\n")
	return b.String()
}

func rangeText(first, last uint32) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

var hookText = map[Hook]string{
	Prerouting:   "type filter hook prerouting priority mangle; policy drop;",
	Postrouting:  "type filter hook postrouting priority filter; policy drop;",
	DeviceEgress: "type filter hook egress device %q priority filter; policy drop;",
}

func (b Block) text(iface string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\tchain %s {\n", b.Name)
	if b.Hook != NoHook {
		hook := hookText[b.Hook]
		if b.Hook == DeviceEgress {
			hook = fmt.Sprintf(hook, iface)
		}
		fmt.Fprintf(&s, "\t\t%s\n", hook)
	}
	for _, l := range b.Lines {
		fmt.Fprintf(&s, "\t\t%s\n", l.text(iface))
	}
	s.WriteString("\t}\n")
	return s.String()
}

func (l Line) text(iface string) string {
	var words []string
	for _, c := range l.Conds {
		words = append(words, c.text(iface))
	}
	if l.Mark != (MarkOp{}) {
		words = append(words, l.Mark.text())
	}
	if l.Counter != "" {
		words = append(words, fmt.Sprintf("counter name %q", l.Counter))
	}
	if l.Log != "" {
		words = append(words, fmt.Sprintf("log prefix %q group %d", l.Log, LogGroup))
	}
	if v := l.Verdict.text(); v != "" {
		words = append(words, v)
	}
	if l.Comment != "" {
		words = append(words, fmt.Sprintf(`comment "%s"`, l.Comment))
	}
	return strings.Join(words, " ")
}

func (m MarkOp) text() string {
	if m.And == ^m.Or {
		return fmt.Sprintf("ct mark set ct mark | 0x%08x", m.Or)
	}
	return fmt.Sprintf("ct mark set ct mark & 0x%08x | 0x%08x", m.And, m.Or)
}

func (v Verdict) text() string {
	switch v.Kind {
	case VerdictAccept:
		return "accept"
	case VerdictGoto:
		return "goto " + v.Target
	case VerdictJump:
		return "jump " + v.Target
	case VerdictMap:
		return fmt.Sprintf("%s vmap @%s", keyText[v.Key], v.Target)
	case VerdictContinue:
		return ""
	}
	return "drop"
}

var keyText = map[Key]string{
	KeyMark:        "ct mark",
	KeyProto:       "meta l4proto",
	KeyICMPv6:      "icmpv6 type",
	KeyOrigSaddr4:  "ct original ip saddr",
	KeyOrigSaddr6:  "ct original ip6 saddr",
	KeyReplySaddr4: "ct reply ip saddr",
	KeyReplySaddr6: "ct reply ip6 saddr",
	KeyOrigSport:   "ct original proto-src",
	KeyOrigDport:   "ct original proto-dst",
	KeyReplySport:  "ct reply proto-src",
}

// protoText names protocols as nft lists them.
var protoText = map[uint32]string{
	uint32(TCP): "tcp", uint32(UDP): "udp", uint32(SCTP): "sctp", protoICMPv6: "ipv6-icmp",
}

var optionText = map[uint32]string{optionLSRR: "lsrr", optionSSRR: "ssrr"}

func (c Cond) text(iface string) string {
	switch c.Key {
	case KeyNotIn:
		return fmt.Sprintf("iif != %q iifname != %q", iface, iface)
	case KeyNotOut:
		return fmt.Sprintf("oif != %q oifname != %q", iface, iface)
	case KeyLoopback:
		return `iif "lo"`
	case KeyMark:
		return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", c.Mask, c.First)
	case KeyNew:
		return "ct state new"
	case KeyBeyond:
		return fmt.Sprintf("limit name %q", c.Limit)
	case KeyFromProcess:
		return "meta skuid != 0xffffffff"
	case KeyIPOption:
		return fmt.Sprintf("ip option %s exists", optionText[c.First])
	case KeyRouted:
		return "meta rtclassid != 0xffffffff"
	case KeyEtherType:
		return fmt.Sprintf("@ll,96,16 0x%04x", c.First)
	case KeyNoSYN:
		return "tcp flags & syn == 0"
	case KeyDirection:
		if c.First == DirectReply {
			return "ct direction reply"
		}
		return "ct direction original"
	}
	if name, ok := protoText[c.First]; ok && c.Key == KeyProto {
		return keyText[c.Key] + " " + name
	}
	if c.Addr.IsValid() {
		return frameText(c.Key, c.Addr)
	}
	if c.Set != "" {
		return fmt.Sprintf("%s @%s", keyText[c.Key], c.Set)
	}
	return keyText[c.Key] + " " + rangeText(c.First, c.Last)
}

// frameText compares an address with the bytes of a frame. nft's own words for
// these fields would look at the protocol that the kernel notes, which the
// sender of a whole frame chooses.
func frameText(k Key, p netip.Prefix) string {
	offset := map[Key]int{KeyARPSender: 112, KeySource4: 96, KeySource6: 64}[k]
	bits := p.Addr().AsSlice()
	if n := p.Bits() / 8; p.Bits()%8 == 0 {
		return fmt.Sprintf("@nh,%d,%d 0x%x", offset, p.Bits(), bits[:n])
	}
	// Of a part of a byte nft compares sixteen bits under a mask.
	n := (p.Bits() + 15) / 16 * 2
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return fmt.Sprintf("@nh,%d,%d & 0x%x == 0x%x", offset, n*8, mask, bits[:n])
}
