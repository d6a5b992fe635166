package neighbours

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/lab"
)

// A frontend is an address that the node makes lead to others.
type frontend struct {
	at         netip.AddrPort
	proto      string
	to         []netip.AddrPort // none: the node refuses
	masquerade bool             // the far end sees the node: node ports
	sticky     bool             // a client stays with the endpoint it got first
}

// A translator does kube-proxy's work on a node in one of its ways. It replaces
// whatever it had done before.
type translator struct {
	name string
	// local says that virtual addresses are the node's own, as IPVS needs them.
	local bool
	// masqueradeAll says that no endpoint sees who dials.
	masqueradeAll bool
	rules         func(v6 bool, fs []frontend) string
	load          func(v6 bool) string // a shell command that reads the rules
}

var translators = []translator{
	{name: "iptables-nft", rules: iptablesRules, load: restore("nft")},
	{name: "iptables-legacy", rules: iptablesRules, load: restore("legacy")},
	{name: "nft", rules: nftRules, load: native.load},
	{name: "ipvs", local: true, rules: nftRules, load: native.load},
	{name: "ipvs masquerading", local: true, masqueradeAll: true, rules: nftRules, load: native.load},
}

// program makes the node translate fs.
func (tr translator) program(t testing.TB, ns *lab.Netns, fs []frontend) {
	t.Helper()
	fs = slices.Clone(fs)
	for i := range fs {
		fs[i].masquerade = fs[i].masquerade || tr.masqueradeAll
	}
	for _, v6 := range []bool{false, true} {
		run(t, ns, fmt.Sprintf("%s <<'end'\n%s\nend", tr.load(v6), tr.rules(v6, ofFamily(fs, v6))))
	}
}

// otherNodes is what another node does, whatever this one does.
func otherNodes() translator { return translator{name: "nft", rules: nftRules, load: native.load} }

// bind makes virtual addresses a node's own.
func bind(t testing.TB, ns *lab.Netns, addrs []netip.Addr) {
	t.Helper()
	var s strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&s, "ip addr add %s dev lo nodad\n", netip.PrefixFrom(a, a.BitLen()))
	}
	run(t, ns, s.String())
}

func ofFamily(fs []frontend, v6 bool) []frontend {
	return slices.DeleteFunc(slices.Clone(fs), func(f frontend) bool { return f.at.Addr().Is6() != v6 })
}

// masqueradeBit is kube-proxy's mark for what is to be masqueraded.
const masqueradeBit = "0x4000"

// iptablesRules is what kube-proxy's iptables mode comes to: a chain for each
// frontend, and one for each of its endpoints.
func iptablesRules(_ bool, fs []frontend) string {
	var chains, jumps, rules, refused, hairpin strings.Builder
	for i, f := range fs {
		match := fmt.Sprintf("-d %s -p %s --dport %d", f.at.Addr(), f.proto, f.at.Port())
		if len(f.to) == 0 {
			fmt.Fprintf(&refused, "-A FORWARD %s -j REJECT\n-A INPUT %s -j REJECT\n", match, match)
			continue
		}
		fmt.Fprintf(&chains, ":SVC-%d - [0:0]\n", i)
		fmt.Fprintf(&jumps, "-A PREROUTING %s -j SVC-%d\n", match, i)
		if f.masquerade {
			fmt.Fprintf(&rules, "-A SVC-%d -j MARK --or-mark %s\n", i, masqueradeBit)
		}
		for j := range f.to {
			if f.sticky {
				fmt.Fprintf(&rules, "-A SVC-%d -m recent --name SEP-%d-%d --rcheck --seconds 60 -j SEP-%d-%d\n", i, i, j, i, j)
			}
		}
		for j, e := range f.to {
			fmt.Fprintf(&chains, ":SEP-%d-%d - [0:0]\n", i, j)
			fmt.Fprintf(&rules, "-A SVC-%d -m statistic --mode nth --every %d --packet 0 -j SEP-%d-%d\n", i, len(f.to)-j, i, j)
			if f.sticky {
				fmt.Fprintf(&rules, "-A SEP-%d-%d -m recent --name SEP-%d-%d --set\n", i, j, i, j)
			}
			fmt.Fprintf(&rules, "-A SEP-%d-%d -p %s -j DNAT --to-destination %s\n", i, j, f.proto, e)
			fmt.Fprintf(&hairpin, "-A POSTROUTING -s %s -d %s -j MASQUERADE\n", e.Addr(), e.Addr())
		}
	}
	return fmt.Sprintf("*nat\n%s%s%s%s-A POSTROUTING -m mark --mark %s/%s -j MASQUERADE\nCOMMIT\n*filter\n%sCOMMIT\n",
		&chains, &jumps, &rules, &hairpin, masqueradeBit, masqueradeBit, &refused)
}

// nftRules is what kube-proxy's nftables mode comes to.
func nftRules(v6 bool, fs []frontend) string {
	family := "ip"
	if v6 {
		family = "ip6"
	}
	var jumps, chains, refused, hairpin strings.Builder
	for i, f := range fs {
		match := fmt.Sprintf("%s daddr %s %s dport %d", family, f.at.Addr(), f.proto, f.at.Port())
		if len(f.to) == 0 {
			fmt.Fprintf(&refused, "%s reject\n", match)
			continue
		}
		fmt.Fprintf(&jumps, "%s goto svc-%d\n", match, i)
		var choice []string
		for j, e := range f.to {
			choice = append(choice, fmt.Sprintf("%d : goto sep-%d-%d", j, i, j))
			fmt.Fprintf(&chains, "chain sep-%d-%d { meta l4proto %s dnat to %s; }\n", i, j, f.proto, e)
			fmt.Fprintf(&hairpin, "%s saddr %s %s daddr %s masquerade\n", family, e.Addr(), family, e.Addr())
		}
		mark, chooser := "", "numgen inc"
		if f.masquerade {
			mark = fmt.Sprintf("meta mark set meta mark | %s; ", masqueradeBit)
		}
		if f.sticky {
			chooser = "jhash " + family + " saddr"
		}
		fmt.Fprintf(&chains, "chain svc-%d { %s%s mod %d vmap { %s }; }\n", i, mark, chooser, len(f.to), strings.Join(choice, ", "))
	}
	return fmt.Sprintf(`table %[1]s proxy
delete table %[1]s proxy
table %[1]s proxy {
%[2]schain prerouting { type nat hook prerouting priority dstnat;
%[3]s}
chain forward { type filter hook forward priority filter;
%[4]s}
chain input { type filter hook input priority filter;
%[4]s}
chain postrouting { type nat hook postrouting priority srcnat;
meta mark & %[6]s == %[6]s masquerade
%[5]s}
}`, family, &chains, &jumps, &refused, &hairpin, masqueradeBit)
}
