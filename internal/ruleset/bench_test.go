package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// large is a rule set of 200 rules that share 10,000 peers.
func large() ruleset.RuleSet {
	addr := netip.MustParseAddr("10.0.0.0")
	hosts := make([]netip.Prefix, 10_000)
	for i := range hosts {
		hosts[i] = netip.PrefixFrom(addr, 32)
		addr = addr.Next()
	}
	peers := ruleset.NewPeers(hosts)
	t := ruleset.Tier{Name: ruleset.TierPolicy}
	for i := range 200 {
		t.Rules = append(t.Rules, ruleset.Rule{Index: i, Action: accept, Matches: []ruleset.Match{{
			Peers: peers, Ports: []ruleset.Ports{tcp(uint16(i), uint16(i))},
		}}})
	}
	return ruleset.RuleSet{Ingress: chain(accept, t), Egress: chain(accept)}
}

func BenchmarkLower(b *testing.B) {
	rs := large()
	for b.Loop() {
		rs.Lower("eth0", 1)
	}
}

func BenchmarkCovers(b *testing.B) {
	rs, old := large(), large()
	for b.Loop() {
		if !rs.Covers(old) {
			b.Fatal("a rule set does not cover itself")
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	c := large().Ingress
	for b.Loop() {
		c.Decide(netip.MustParseAddr("10.0.39.15"), ruleset.TCP, 199)
	}
}

func BenchmarkRevision(b *testing.B) {
	rs := large()
	for b.Loop() {
		rs.Revision()
	}
}
