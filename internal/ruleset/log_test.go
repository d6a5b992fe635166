package ruleset_test

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// checkLogged checks that the first packet of c is logged as what it was, if rs
// logs that, and never twice for one reason.
func checkLogged(t *testing.T, k *kernel, rs ruleset.RuleSet, c *conn, passed bool) {
	t.Helper()
	var reasons map[string]ruleset.Reason
	if len(k.logged) > 0 {
		reasons = rs.Reasons()
	}
	fates := map[ruleset.Fate]int{}
	for _, prefix := range k.logged {
		id := strings.TrimPrefix(prefix, ruleset.Prefix("eth0"))
		why, ok := reasons[id]
		if !ok || why.ID() != id {
			t.Fatalf("%v is logged as %q, which is no reason of the rule set", c, id)
		}
		fates[why.Fate]++
		if why.Fate != ruleset.Accepted {
			checkReason(t, rs, c, why)
		}
	}
	audited := fates[ruleset.Audited]
	want := map[ruleset.Fate]int{ruleset.Dropped: 0, ruleset.Accepted: 0, ruleset.Audited: audited}
	if rs.Log.Drops && !passed {
		want[ruleset.Dropped] = 1
	}
	if rs.Log.Accepts && passed {
		want[ruleset.Accepted] = 1
	}
	for fate, n := range want {
		if fates[fate] != n || audited > 1 || (audited == 1 && !passed) {
			t.Fatalf("%v, passed %v, is logged as %q, with %+v", c, passed, k.logged, rs.Log)
		}
	}
}

// checkReason checks that what why says is what Decide says.
func checkReason(t *testing.T, rs ruleset.RuleSet, c *conn, why ruleset.Reason) {
	t.Helper()
	port := map[ruleset.Direction]uint16{ruleset.Ingress: c.ingressPort, ruleset.Egress: c.egressPort}[why.Direction]
	d := rs.Chain(why.Direction).Decide(c.peer, c.proto, port)
	isRule := d.Rule != nil && why.Cause == ruleset.CauseRule && d.Rule.Index == why.Index
	isEnd := d.Rule == nil && why.Cause == ruleset.CauseIsolation
	if d.Action != ruleset.Drop || (d.Tier != why.Tier && why.Cause == ruleset.CauseRule) || !(isRule || isEnd) {
		t.Fatalf("%v is logged as %+v, Decide says %+v", c, why, d)
	}
}

func TestBeyondTheLimitPacketsAreCountedInstead(t *testing.T) {
	rs := ruleset.RuleSet{Log: ruleset.Logging{Drops: true, Accepts: true}, Egress: chain(accept)}
	k := &kernel{t: t, table: rs.Lower("eth0", 1), beyond: true}
	for _, tt := range []struct {
		name    string
		leaving bool
		want    []string
	}{
		{"a drop", false, []string{ruleset.DropCounter("eth0", ruleset.Ingress), ruleset.HiddenCounter("eth0")}},
		{"an accepted flow", true, []string{ruleset.HiddenAcceptsCounter("eth0")}},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		c := randomConn(r)
		for c.leaving != tt.leaving {
			c = randomConn(r)
		}
		if passes := k.send(c.hookOf(false), packet{conn: c}); passes != tt.leaving || !slices.Equal(k.counted, tt.want) || len(k.logged) > 0 {
			t.Errorf("%s: passes %v, counted by %q, logged as %q; want it counted by %q alone", tt.name, passes, k.counted, k.logged, tt.want)
		}
	}
}

// An annotation is a developer's. What an administrator denies stays denied.
func TestAuditSuspendsOnlyNetworkPolicy(t *testing.T) {
	no := named("no", drop, "0.0.0.0/0", tcp(80, 80))
	peer := prefixes("10.0.0.9/32")[0].Addr()
	tests := []struct {
		name  string
		tiers []ruleset.Tier
		want  ruleset.Action
	}{
		{"isolation", []ruleset.Tier{tier(ruleset.TierPolicy, drop)}, accept},
		{"a Service that leads where policy forbids", []ruleset.Tier{tier(ruleset.TierService, pass, no)}, accept},
		{"a denial by an administrator", []ruleset.Tier{tier(ruleset.TierAdmin, pass, no), tier(ruleset.TierPolicy, drop)}, drop},
		{"a denial in the baseline", []ruleset.Tier{tier(ruleset.TierBaseline, pass, no)}, drop},
		{"a Service that may lead where an administrator forbids", []ruleset.Tier{tier(ruleset.TierService, pass, no), tier(ruleset.TierAdmin, pass, no)}, drop},
		{"no tier at all", nil, drop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			end := accept
			if tt.tiers == nil {
				end = drop
			}
			rs := ruleset.RuleSet{Audit: true, Ingress: chain(end, tt.tiers...)}
			if got := rs.Enforced(ruleset.Ingress).Decide(peer, ruleset.TCP, 80).Action; got != tt.want {
				t.Errorf("enforced: %s, want %s", got, tt.want)
			}
			if got := rs.Ingress.Decide(peer, ruleset.TCP, 80).Action; got != drop {
				t.Errorf("by policy: %s, want Drop", got)
			}
		})
	}
}

// While an audit ends, open connections are judged again; while it begins they
// need not be.
func TestEndOfAnAuditTakesSomethingAway(t *testing.T) {
	enforced := ruleset.RuleSet{Ingress: chain(accept, tier(ruleset.TierPolicy, drop)), Egress: chain(accept)}
	audited := enforced
	audited.Audit = true
	if !audited.Covers(enforced) || enforced.Covers(audited) {
		t.Errorf("audited covers enforced: %v, want true; the other way round: %v, want false", audited.Covers(enforced), enforced.Covers(audited))
	}
}

// Rule sets without logging are encoded, and so named, as they were before there
// was any.
func TestWithoutLoggingNothingIsSaidOfIt(t *testing.T) {
	b, err := json.Marshal(ruleset.RuleSet{})
	if err != nil || strings.Contains(string(b), "log") || strings.Contains(string(b), "audit") {
		t.Errorf("zero RuleSet: %s, %v", b, err)
	}
}

func TestLogPrefixFits(t *testing.T) {
	long := strings.Repeat("n", 90)
	rs := oneRule(ruleset.Rule{Origin: ruleset.Ref{Kind: "K", Namespace: strings.Repeat("s", 63), Name: long}, Index: 1 << 30, Action: drop})
	rs.Log.Drops = true
	for id, why := range rs.Reasons() {
		if prefix := ruleset.Prefix("1weird") + id; len(prefix) > 127 || len(id) == 0 {
			t.Errorf("%+v is logged as %q, of %d bytes", why, id, len(id))
		}
	}
	for _, b := range rs.Lower("eth0", 1).Blocks {
		if len(b.Name) > 255 {
			t.Errorf("block %s has %d bytes", b.Name, len(b.Name))
		}
	}
}

// Rule sets that say that they have the same reasons have; if only peers differ
// they say so.
func TestSameReasons(t *testing.T) {
	said := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		twin := func() ruleset.RuleSet { return randomRuleSet(rand.New(rand.NewPCG(seed, 3))) }
		a, b := twin(), twin()
		changed := spoil(r, &b)
		same := a.SameReasons(&b)
		if !changed && !same {
			t.Fatalf("seed %d: other reasons, though only peers differ", seed)
		}
		if same && !reflect.DeepEqual(a.Reasons(), b.Reasons()) {
			t.Fatalf("seed %d: the same reasons, though they are\n%v\nand\n%v", seed, a.Reasons(), b.Reasons())
		}
		if same {
			said++
		}
	}
	if said < 20 || said > 250 {
		t.Errorf("%d of 300 have the same reasons", said)
	}
}

// spoil changes some part of a rule set, which it may share with no other, and
// reports whether that is more than its peers.
func spoil(r *rand.Rand, rs *ruleset.RuleSet) bool {
	for _, c := range []*ruleset.Chain{&rs.Ingress, &rs.Egress} {
		for i := range c.Tiers {
			tier := &c.Tiers[i]
			if r.IntN(8) == 0 {
				tier.Default = pick(r, []ruleset.Action{ruleset.Drop, ruleset.Accept, ruleset.Pass})
				return true
			}
			for j := range tier.Rules {
				rule := &tier.Rules[j]
				for m := range rule.Matches {
					rule.Matches[m].Peers = randomPeers(r)
				}
				switch r.IntN(40) {
				case 0:
					rule.Origin.Name += "x"
					return true
				case 1:
					rule.Action = pick(r, []ruleset.Action{ruleset.Drop, ruleset.Accept, ruleset.Pass})
					return true
				case 2:
					rule.Index++
					return true
				}
			}
		}
	}
	if r.IntN(4) > 0 {
		return false
	}
	rs.Audit = !rs.Audit
	return true
}
