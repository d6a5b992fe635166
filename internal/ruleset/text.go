package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Text is rs as nft text for interface iface, in its first epoch: what
// `policyctl compile` prints and `nft -f` loads in a namespace that has iface.
func (rs RuleSet) Text(iface string) string { return rs.Lower(iface, 1).Text() }

// Text is t in the language of nft.
func (t Table) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, c := range t.Counters {
		fmt.Fprintf(&b, "\tcounter %s {\n\t}\n\n", c)
	}
	for _, s := range t.Sets {
		b.WriteString(s.text())
	}
	for _, m := range t.Maps {
		b.WriteString(m.text())
	}
	for _, c := range t.Blocks {
		b.WriteString(c.text(t.Interface))
	}
	b.WriteString("}\n")
	return b.String()
}

func (s Set) text() string {
	var b strings.Builder
	kind := "ipv4_addr"
	if s.V6 {
		kind = "ipv6_addr"
	}
	fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.Name, kind)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(s.Elements) > 0 {
		elems := make([]string, len(s.Elements))
		for i, p := range s.Elements {
			elems[i] = elementText(p)
		}
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(elems, ", "))
	}
	b.WriteString("\t}\n\n")
	return b.String()
}

func elementText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func (m PortMap) text() string {
	elems := make([]string, len(m.Elements))
	for i, e := range m.Elements {
		elems[i] = fmt.Sprintf("%s : jump %s", rangeText(uint32(e.First), uint32(e.Last)), e.Block)
	}
	return fmt.Sprintf("\tmap %s {\n\t\ttype inet_service : verdict\n\t\tflags interval\n\t\telements = { %s }\n\t}\n\n",
		m.Name, strings.Join(elems, ", "))
}

func rangeText(first, last uint32) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

var hookText = map[Hook]string{
	Prerouting: "type filter hook prerouting priority mangle; policy drop;",
	Output:     "type filter hook output priority filter; policy drop;",
	Forward:    "type filter hook forward priority filter; policy drop;",
}

func (b Block) text(iface string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\tchain %s {\n", b.Name)
	if b.Hook != NoHook {
		fmt.Fprintf(&s, "\t\t%s\n", hookText[b.Hook])
	}
	for _, l := range b.Lines {
		fmt.Fprintf(&s, "\t\t%s\n", l.text(iface))
	}
	s.WriteString("\t}\n\n")
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

func (c Cond) text(iface string) string {
	switch c.Key {
	case KeyNotIn:
		return fmt.Sprintf("iif != %q iifname != %q", iface, iface)
	case KeyNotOut:
		return fmt.Sprintf("oif != %q oifname != %q", iface, iface)
	case KeyMark:
		return fmt.Sprintf("ct mark & 0x%08x == 0x%08x", c.Mask, c.First)
	case KeyNew:
		return "ct state new"
	case KeyNoSYN:
		return "tcp flags & syn == 0"
	case KeyDirection:
		if c.First == DirectReply {
			return "ct direction reply"
		}
		return "ct direction original"
	}
	if c.Set != "" {
		return fmt.Sprintf("%s @%s", keyText[c.Key], c.Set)
	}
	return keyText[c.Key] + " " + rangeText(c.First, c.Last)
}
