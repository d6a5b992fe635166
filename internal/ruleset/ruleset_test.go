package ruleset_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

func tcp(first, last uint16) ruleset.Ports {
	return ruleset.Ports{Proto: ruleset.TCP, First: first, Last: last}
}

func TestPorts(t *testing.T) {
	tests := []struct {
		name  string
		ports ruleset.Ports
		proto ruleset.Proto
		port  uint16
		want  bool
		text  string
	}{
		{"zero matches nothing", ruleset.Ports{}, 0, 0, false, "0"},
		{"zero matches no TCP", ruleset.Ports{}, ruleset.TCP, 0, false, "0"},
		{"any matches a protocol without ports", ruleset.AnyPort, 1, 0, true, "any"},
		{"any matches TCP", ruleset.AnyPort, ruleset.TCP, 80, true, "any"},
		{"all of UDP matches UDP", ruleset.AllPorts(ruleset.UDP), ruleset.UDP, 65535, true, "UDP"},
		{"all of UDP matches no TCP", ruleset.AllPorts(ruleset.UDP), ruleset.TCP, 53, false, "UDP"},
		{"one port", tcp(80, 80), ruleset.TCP, 80, true, "TCP 80"},
		{"the port beside it", tcp(80, 80), ruleset.TCP, 81, false, "TCP 80"},
		{"end of a range", tcp(80, 90), ruleset.TCP, 90, true, "TCP 80-90"},
		{"range that ends before it begins", tcp(90, 80), ruleset.TCP, 85, false, "TCP 90-80"},
		{"port 0 is a port", tcp(0, 0), ruleset.TCP, 0, true, "TCP 0"},
		{"a port number means nothing in ICMP", ruleset.Ports{Proto: 1, First: 8, Last: 8}, 1, 0, true, "1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.ports.Contains(tt.proto, tt.port); got != tt.want {
				t.Errorf("%v contains %s %d: %v, want %v", tt.ports, tt.proto, tt.port, got, tt.want)
			}
			if got := tt.ports.String(); got != tt.text {
				t.Errorf("String = %q, want %q", got, tt.text)
			}
		})
	}
}

func named(name string, action ruleset.Action, peers string, ports ...ruleset.Ports) ruleset.Rule {
	return ruleset.Rule{
		Origin:  ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name},
		Action:  action,
		Matches: []ruleset.Match{{Peers: ruleset.NewPeers(prefixes(peers)), Ports: ports}},
	}
}

func tier(name string, end ruleset.Action, rules ...ruleset.Rule) ruleset.Tier {
	return ruleset.Tier{Name: name, Default: end, Rules: rules}
}

func chain(end ruleset.Action, tiers ...ruleset.Tier) ruleset.Chain {
	return ruleset.Chain{Default: end, Tiers: tiers}
}

const (
	drop   = ruleset.Drop
	accept = ruleset.Accept
	pass   = ruleset.Pass
)

func TestDecide(t *testing.T) {
	web := named("web", accept, "10.0.0.3/32", tcp(80, 80))
	tests := []struct {
		name  string
		chain ruleset.Chain
		want  ruleset.Action
		tier  string
		rule  string // the policy of the rule that decides
	}{
		{"zero drops", ruleset.Chain{}, drop, "", ""},
		{"default accepts", chain(accept), accept, "", ""},
		{"default that passes drops", chain(pass), drop, "", ""},
		{"rule accepts", chain(drop, tier("policy", drop, web)), accept, "policy", "web"},
		{"other port", chain(accept, tier("policy", drop, named("web", accept, "10.0.0.3/32", tcp(81, 81)))), drop, "policy", ""},
		{"other peer", chain(accept, tier("policy", drop, named("web", accept, "10.0.0.4/32", tcp(80, 80)))), drop, "policy", ""},
		{"first rule wins", chain(drop, tier("admin", pass, named("no", drop, "10.0.0.0/8", ruleset.AnyPort), web)), drop, "admin", "no"},
		{"pass leaves the rest of its tier out",
			chain(drop, tier("admin", pass, named("skip", pass, "10.0.0.0/8", ruleset.AnyPort), named("no", drop, "10.0.0.0/8", ruleset.AnyPort)),
				tier("policy", drop, web)), accept, "policy", "web"},
		{"pass out of the last tier meets the default", chain(accept, tier("baseline", drop, named("skip", pass, "0.0.0.0/0", ruleset.AnyPort))), accept, "", ""},
		{"rule without matches", chain(accept, tier("policy", drop, ruleset.Rule{Action: accept})), drop, "policy", ""},
		{"match without ports", chain(accept, tier("policy", drop, named("web", accept, "10.0.0.3/32"))), drop, "policy", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.chain.Decide(netip.MustParseAddr("10.0.0.3"), ruleset.TCP, 80)
			rule := ""
			if got.Rule != nil {
				rule = got.Rule.Origin.Name
			}
			if got.Action != tt.want || got.Tier != tt.tier || rule != tt.rule {
				t.Errorf("Decide = %s by %q %q, want %s by %q %q", got.Action, got.Tier, rule, tt.want, tt.tier, tt.rule)
			}
		})
	}
}

func TestDropNamesWhoIsolates(t *testing.T) {
	ref := ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "deny"}
	c := chain(accept, ruleset.Tier{Name: ruleset.TierPolicy, Selected: []ruleset.Ref{ref}})
	if got := c.Decide(netip.MustParseAddr("10.0.0.3"), ruleset.TCP, 80); !slices.Equal(got.Selected, []ruleset.Ref{ref}) {
		t.Errorf("Selected = %v, want %v", got.Selected, ref)
	}
}

func TestZeroRuleSetIsolates(t *testing.T) {
	var rs ruleset.RuleSet
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		if got := rs.Chain(d).Decide(netip.MustParseAddr("10.0.0.3"), ruleset.TCP, 80); got.Action != drop {
			t.Errorf("%s of the zero rule set: %s", d, got.Action)
		}
	}
}

func TestCovers(t *testing.T) {
	policy := func(rules ...ruleset.Rule) ruleset.Chain { return chain(accept, tier("policy", drop, rules...)) }
	a := named("a", accept, "10.0.0.3/32", tcp(80, 80))
	b := named("b", accept, "10.0.0.0/24", tcp(80, 90))
	tests := []struct {
		name     string
		now, old ruleset.Chain
		want     bool
	}{
		{"the same", policy(a), policy(a), true},
		{"one more rule", policy(a, b), policy(a), true},
		{"one rule less", policy(a), policy(a, b), false},
		{"another order", policy(b, a), policy(a, b), true},
		{"wider peers and ports", policy(b), policy(a), true},
		{"narrower", policy(a), policy(b), false},
		{"isolated before, open now", chain(accept), policy(a), true},
		{"open before, isolated now", policy(a), chain(accept), false},
		{"open in another way", chain(accept, tier("node", pass)), policy(a), true},
		{"a rule that meets nothing goes", policy(a), policy(a, named("x", accept, "10.9.0.0/16")), true},
		{"a rule for no port goes", policy(a), policy(a, named("x", accept, "10.9.0.0/16", tcp(9, 8))), true},
		{"one more deny", chain(accept, tier("admin", pass, named("no", drop, "10.0.0.3/32", tcp(80, 80)))), chain(accept, tier("admin", pass)), false},
		{"rules with denies swapped",
			chain(drop, tier("admin", pass, named("no", drop, "10.0.0.3/32", tcp(80, 80)), a)),
			chain(drop, tier("admin", pass, a, named("no", drop, "10.0.0.3/32", tcp(80, 80)))), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now, old := ruleset.RuleSet{Ingress: tt.now}, ruleset.RuleSet{Ingress: tt.old}
			if got := now.Covers(old); got != tt.want {
				t.Errorf("ingress: Covers = %v, want %v", got, tt.want)
			}
			now, old = ruleset.RuleSet{Egress: tt.now}, ruleset.RuleSet{Egress: tt.old}
			if got := now.Covers(old); got != tt.want {
				t.Errorf("egress: Covers = %v, want %v", got, tt.want)
			}
		})
	}
	if (ruleset.RuleSet{}).Covers(ruleset.RuleSet{Adopted: ruleset.AdoptedTCP}) {
		t.Error("the end of adoption covers adoption")
	}
}

// A rule set that covers another must accept all that the other does: flows it
// would take away stay open until something else moves the epoch.
func TestCoversIsSound(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	covered := 0
	for range 4000 {
		old := randomChain(r)
		now := vary(r, old)
		if !(ruleset.RuleSet{Ingress: now}).Covers(ruleset.RuleSet{Ingress: old}) {
			continue
		}
		covered++
		for range 50 {
			peer, proto, port := netip.MustParseAddr(pick(r, addrs)), pick(r, proto), pick(r, ports)
			if old.Decide(peer, proto, port).Action == accept && now.Decide(peer, proto, port).Action != accept {
				t.Fatalf("%s %s %d is taken away by a chain that covers\nold %+v\nnew %+v", peer, proto, port, old, now)
			}
		}
	}
	if covered < 500 {
		t.Errorf("only %d of 4000 pairs cover each other, too few to prove anything", covered)
	}
}

// vary returns c with a few changes.
func vary(r *rand.Rand, c ruleset.Chain) ruleset.Chain {
	c.Tiers = slices.Clone(c.Tiers)
	for range r.IntN(3) {
		if len(c.Tiers) == 0 {
			c.Default = pick(r, []ruleset.Action{drop, accept})
			break
		}
		t := &c.Tiers[r.IntN(len(c.Tiers))]
		t.Rules = slices.Clone(t.Rules)
		switch extra := randomTier(r, t.Name, 1).Rules[0]; r.IntN(4) {
		case 0:
			t.Default = pick(r, []ruleset.Action{drop, accept, pass})
		case 1:
			t.Rules = slices.Insert(t.Rules, r.IntN(len(t.Rules)+1), extra)
		case 2:
			if len(t.Rules) > 0 {
				t.Rules[r.IntN(len(t.Rules))] = extra
			}
		case 3:
			r.Shuffle(len(t.Rules), func(i, j int) { t.Rules[i], t.Rules[j] = t.Rules[j], t.Rules[i] })
		}
	}
	return c
}

// A revision names the value, not the meaning: rule sets that accept the same in
// another order differ. Compile sorts, so that equal snapshots give equal ones.
func TestRevision(t *testing.T) {
	a, b := named("a", accept, "10.0.0.3/32", tcp(80, 80)), named("b", accept, "10.0.0.4/32", tcp(80, 80))
	one := ruleset.RuleSet{Ingress: chain(accept, tier("policy", drop, a, b))}
	again := ruleset.RuleSet{Ingress: chain(accept, tier("policy", drop, a, b))}
	other := ruleset.RuleSet{Ingress: chain(accept, tier("policy", drop, b, a))}
	if one.Revision() != again.Revision() {
		t.Errorf("equal rule sets have revisions %s and %s", one.Revision(), again.Revision())
	}
	if one.Revision() == other.Revision() {
		t.Error("another order has the same revision")
	}
	// The zero rule set's revision is what every node has stored: it must not move.
	const zero = "sha256:"
	if got := (ruleset.RuleSet{}).Revision(); !strings.HasPrefix(got, zero) || len(got) != len(zero)+64 {
		t.Errorf("revision = %s", got)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for seed := range uint64(200) {
		want := randomRuleSet(rand.New(rand.NewPCG(seed, 0)))
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got ruleset.RuleSet
		if err := json.Unmarshal(b, &got); err != nil {
			if strings.Contains(string(b), `"protocol":"0"`) && strings.Contains(err.Error(), "protocol") {
				continue // the zero Ports is never compiled, and not read
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got.Revision() != want.Revision() || !reflect.DeepEqual(got.Lower("eth0", 1), want.Lower("eth0", 1)) {
			t.Fatalf("seed %d: round trip of %s", seed, b)
		}
	}
}

func TestJSONThatIsNoRuleSet(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"action", `{"ingress":{"default":"accept"}}`, `action "accept"`},
		{"protocol", `{"ingress":{"tiers":[{"rules":[{"matches":[{"ports":[{"protocol":"ICMP"}]}]}]}]}}`, `protocol "ICMP"`},
		{"port", `{"ingress":{"tiers":[{"rules":[{"matches":[{"ports":[{"protocol":"TCP","port":65536}]}]}]}]}}`, "65536"},
		{"prefix", `{"ingress":{"tiers":[{"rules":[{"matches":[{"peers":{"prefixes":["10.0.0.0/33"]}}]}]}]}}`, "10.0.0.0/33"},
		{"address", `{"addresses":["10.0.0"]}`, "10.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := json.Unmarshal([]byte(tt.in), new(ruleset.RuleSet))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("unmarshal %s: %v, want an error about %s", tt.in, err, tt.want)
			}
		})
	}
}

// Peers from elsewhere are put into the order that this package relies on.
func TestJSONPeersAreMadeCanonical(t *testing.T) {
	var p ruleset.Peers
	if err := json.Unmarshal([]byte(`{"prefixes":["fd00::/64","10.0.0.3/8","10.0.0.0/24","::ffff:192.0.2.1/128"]}`), &p); err != nil {
		t.Fatal(err)
	}
	if got, want := list(p.Prefixes), "10.0.0.0/8 192.0.2.1/32 fd00::/64"; got != want {
		t.Errorf("peers = %s, want %s", got, want)
	}
}

// Whatever is read as a rule set lowers to a table that nft and the kernel take,
// and is written as it was read.
func FuzzRuleSet(f *testing.F) {
	for seed := range uint64(8) {
		b, err := json.Marshal(randomRuleSet(rand.New(rand.NewPCG(seed, 0))))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"ingress":{"tiers":[{"name":"a b\n","rules":[{"index":-1,"origin":{"name":"\""},"matches":[{"peers":{"any":true},"ports":[{"protocol":"TCP","port":9,"endPort":8}]}]}]}]}}`))
	f.Add([]byte(`{"ingress":{"tiers":[{"rules":[{"matches":[{"ports":[{}]}]}]}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rs, again ruleset.RuleSet
		if json.Unmarshal(b, &rs) != nil {
			return
		}
		checkTable(t, rs.Lower("eth0", 1))
		out, err := json.Marshal(rs)
		if err != nil {
			t.Fatalf("marshal: %v", err)
		}
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("read what was written: %v\n%s", err, out)
		}
		if rs.Revision() != again.Revision() || rs.Text("eth0") != again.Text("eth0") {
			t.Fatalf("%s became %s", b, out)
		}
	})
}
