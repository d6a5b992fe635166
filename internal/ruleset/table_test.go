package ruleset_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podwall/podwall/internal/ruleset"
)

// checkTable checks what the kernel and nft demand of any table: names that are
// unique, readable and short enough, nothing that refers to nothing, sets and
// maps in order, comments that fit, and no range that ends before it begins.
func checkTable(t *testing.T, table ruleset.Table) {
	t.Helper()
	names := make(map[string]map[string]bool)
	declare := func(kind, name string) {
		if names[kind] == nil {
			names[kind] = make(map[string]bool)
		}
		if names[kind][name] {
			t.Fatalf("two of %s %q", kind, name)
		}
		names[kind][name] = true
		if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/", r)
		}) {
			t.Fatalf("%s %q has %d bytes, or some that nft does not read", kind, name, len(name))
		}
	}
	for _, c := range table.Counters {
		declare("counter", c)
	}
	for _, s := range table.Sets {
		declare("set", s.Name)
		checkElements(t, s)
	}
	for _, b := range table.Blocks {
		declare("block", b.Name)
	}
	for _, s := range table.Sets {
		if s.Targets != nil && len(s.Targets) != len(s.Elements) {
			t.Fatalf("map %s leads from %d addresses to %d blocks", s.Name, len(s.Elements), len(s.Targets))
		}
		for _, block := range s.Targets {
			if !names["block"][block] {
				t.Fatalf("map %s: no block %q", s.Name, block)
			}
		}
	}
	for _, b := range table.Blocks {
		for _, l := range b.Lines {
			checkLine(t, b, l, names)
		}
	}
}

func checkElements(t *testing.T, s ruleset.Set) {
	t.Helper()
	for i, p := range s.Elements {
		switch {
		case p != p.Masked(), p.Addr().Is6() != s.V6, !s.Interval && !p.IsSingleIP():
			t.Fatalf("set %+v: element %s", s, p)
		case i > 0 && (s.Elements[i-1].Overlaps(p) || s.Elements[i-1].Addr().Compare(p.Addr()) >= 0):
			t.Fatalf("set %s: %s after %s", s.Name, p, s.Elements[i-1])
		}
	}
}

func checkLine(t *testing.T, b ruleset.Block, l ruleset.Line, names map[string]map[string]bool) {
	t.Helper()
	target := map[ruleset.VerdictKind]string{ruleset.VerdictGoto: "block", ruleset.VerdictJump: "block", ruleset.VerdictMap: "set"}
	kind := target[l.Verdict.Kind]
	switch {
	case len(l.Comment) >= ruleset.MaxComment, strings.ContainsAny(l.Comment, "\"\n\t\\"):
		t.Fatalf("block %s: comment %q", b.Name, l.Comment)
	case l.Counter != "" && !names["counter"][l.Counter]:
		t.Fatalf("block %s: no counter %q", b.Name, l.Counter)
	case kind != "" && !names[kind][l.Verdict.Target]:
		t.Fatalf("block %s: no %s %q", b.Name, kind, l.Verdict.Target)
	}
	for _, c := range l.Conds {
		if c.First > c.Last || (c.Set != "" && !names["set"][c.Set]) {
			t.Fatalf("block %s: condition %+v", b.Name, c)
		}
	}
}

// oneRule is a rule set with one ingress rule.
func oneRule(r ruleset.Rule) ruleset.RuleSet {
	return ruleset.RuleSet{Ingress: ruleset.Chain{Tiers: []ruleset.Tier{{Name: ruleset.TierPolicy, Rules: []ruleset.Rule{r}}}}}
}

func TestNamesOfAnyObject(t *testing.T) {
	everyone := []ruleset.Match{{
		Peers: ruleset.NewPeers([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}),
		Ports: []ruleset.Ports{ruleset.AnyPort},
	}}
	for _, name := range []string{
		"", "api", "a.b-c_d", strings.Repeat("n", 120), strings.Repeat("n", 253), "ünïcode", "a b", "a/b", "a\"b", "a\nb",
		"a\x00b", "x-sha256-0123", strings.Repeat("ü", 126), "\xff\xfe",
	} {
		ref := ruleset.Ref{Kind: name, Namespace: name, Name: name}
		rs := oneRule(ruleset.Rule{Origin: ref, Index: 1 << 30, Action: ruleset.Accept, Matches: everyone})
		rs.Ingress.Tiers[0].Selected = []ruleset.Ref{ref, ref}
		for _, iface := range []string{"eth0", "eth0.100", "@weird", "1eth", strings.Repeat("i", 15), name} {
			table := rs.Lower(iface, 1)
			checkTable(t, table)
			if c := table.Counters[0][0] | 0x20; c < 'a' || c > 'z' {
				t.Errorf("interface %q: nft reads no name that begins like %q", iface, table.Counters[0])
			}
		}
	}
}

func TestDifferentObjectsHaveDifferentNames(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"a/b", "a", "b", "A", "a b", "a_b", strings.Repeat("n", 121), strings.Repeat("n", 122), "x-sha256-"} {
		table := oneRule(ruleset.Rule{Origin: ruleset.Ref{Name: name}, Matches: []ruleset.Match{{}}}).Lower("eth0", 1)
		counter := table.Counters[slices.IndexFunc(table.Counters, func(c string) bool { return strings.Contains(c, "/policy/") })]
		if other, ok := seen[counter]; ok {
			t.Errorf("%q and %q are both counted by %s", name, other, counter)
		}
		seen[counter] = name
	}
}

// Two rules of one name must not share a set: each would admit the other's peers.
func TestSameOriginAndIndexTwice(t *testing.T) {
	rule := func(peer string) ruleset.Rule {
		return ruleset.Rule{Origin: ruleset.Ref{Namespace: "shop", Name: "p"}, Action: ruleset.Accept, Matches: []ruleset.Match{{
			Peers: ruleset.NewPeers([]netip.Prefix{netip.MustParsePrefix(peer)}), Ports: []ruleset.Ports{ruleset.AnyPort},
		}}}
	}
	rs := oneRule(rule("10.0.0.3/32"))
	rs.Ingress.Tiers[0].Rules = append(rs.Ingress.Tiers[0].Rules, rule("10.0.0.4/32"))
	rs.Adopted = ruleset.AdoptedTCP
	table := rs.Lower("eth0", 1)
	checkTable(t, table)
	if len(table.Sets) != 2 {
		t.Errorf("sets = %v, want 2", table.Sets)
	}
}

// A dispatched rule set is as large as its rules, whatever ranges they have.
func TestDispatchStaysSmall(t *testing.T) {
	var rs ruleset.RuleSet
	tier := ruleset.Tier{Name: ruleset.TierPolicy}
	const rules = 500
	for i := range rules {
		tier.Rules = append(tier.Rules, ruleset.Rule{Index: i, Action: ruleset.Accept, Matches: []ruleset.Match{{
			Peers: ruleset.Everyone,
			Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: uint16(i), Last: uint16(65000 - i)}, {Proto: ruleset.TCP, First: uint16(i), Last: uint16(i + 3)}},
		}}})
	}
	rs.Ingress.Tiers = []ruleset.Tier{tier}
	table := rs.Lower("eth0", 1)
	checkTable(t, table)
	lines := 0
	for _, b := range table.Blocks {
		lines += len(b.Lines)
	}
	if lines > 10*rules {
		t.Errorf("%d rules make %d lines", rules, lines)
	}
}

func TestEpochs(t *testing.T) {
	if got := ruleset.Epoch(0).Next(); got != 1 {
		t.Errorf("epoch after 0 = %d, want 1", got)
	}
	if got := ruleset.MaxEpoch.Next(); got != 1 {
		t.Errorf("epoch after the last = %d, want 1: 0 is the mark of flows nobody judged", got)
	}
	for e := ruleset.Epoch(1); ; e = e.Next() {
		if got := ruleset.EpochOf(e.Mark() | 0x8000_0000 | 1337); got != e || e.Mark()&0x8000_ffff != 0 {
			t.Fatalf("epoch in mark of %d = %d", e, got)
		}
		if e == ruleset.MaxEpoch {
			return
		}
	}
}

// A table says the same in another epoch as if it had been made for it.
func TestTableInAnotherEpochIsThatEpochsTable(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		rs := randomRuleSet(r)
		rs.Log = ruleset.Logging{Drops: r.IntN(2) == 0, Accepts: r.IntN(2) == 0, Rate: 1, Burst: 1}
		table, epoch := rs.Lower("eth0", 0), ruleset.Epoch(r.IntN(int(ruleset.MaxEpoch))+1)
		if diff := cmp.Diff(rs.Lower("eth0", epoch), table.In(epoch), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d: table of epoch %d (-made for it +In):\n%s", seed, epoch, diff)
		}
		if table.In(epoch).Text() == table.Text() {
			t.Fatalf("seed %d: nothing names the epoch", seed)
		}
	}
}

// Every sample's guard is as well-formed as its table.
func TestGuardIsWellFormed(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("fd00::2")}
	for name, rs := range map[string]ruleset.RuleSet{
		"isolated":                   {Addresses: own},
		"isolated without addresses": {},
		"open":                       {Addresses: own, Egress: ruleset.Chain{Default: ruleset.Accept}},
	} {
		guard := rs.Guard("eth0")
		checkTable(t, guard)
		if len(guard.Blocks) != 1 || guard.Family != ruleset.Netdev {
			t.Errorf("%s: %d blocks of family %s, want one of netdev", name, len(guard.Blocks), guard.Family)
		}
	}
	for name, rs := range map[string]ruleset.RuleSet{
		"raw sockets allowed":    {Addresses: own, RawSockets: true},
		"open without addresses": {Egress: ruleset.Chain{Default: ruleset.Accept}},
	} {
		if guard := rs.Guard("eth0"); len(guard.Blocks) != 0 {
			t.Errorf("%s: %d blocks, want none", name, len(guard.Blocks))
		}
	}
}
