package nft_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A peer comes to one of many rules for a port, goes from it and moves to
// another, and the rules become few and many again, under a flow that all of
// them allow and one that none does.
func TestClassesLoseNothingAndLeakNothing(t *testing.T) {
	lab := netnstest.Bridge(t, 3)
	friend, stranger, server := lab.Pods[0], lab.Pods[1], lab.Pods[2]
	server.Echo(t, "udp", ":53")
	rng := rand.New(rand.NewPCG(1, 1))
	version := func(i int) ruleset.RuleSet {
		var rules []ruleset.Rule
		for j := range []int{8, 20, 20, 40}[rng.IntN(4)] {
			rules = append(rules, rule(fmt.Sprint("p", j), ruleset.Accept, peers(fmt.Sprintf("198.18.%d.%d", j, (i+j)%3)),
				ruleset.Ports{Proto: ruleset.UDP, First: 53, Last: 53}))
		}
		r := &rules[rng.IntN(len(rules))]
		r.Matches[0].Peers = peers(friend.IP4.String(), fmt.Sprintf("198.19.0.%d", i%256))
		return ruleset.RuleSet{Ingress: isolated(rules...), Egress: open}
	}
	netnstest.Flow{From: stranger.NS, Network: "udp", To: server.Addr4(53)}.MustPass(t)
	last := apply(t, server, version(0), nil)
	netnstest.Flow{From: friend.NS, Network: "udp", To: server.Addr4(53)}.MustPass(t)
	allowed, denied := friend.StartStream(t, server.Addr4(53), 200*time.Microsecond), stranger.StartStream(t, server.Addr4(53), 200*time.Microsecond)
	for i := range 200 {
		last = apply(t, server, version(i), last)
	}
	if sent, returned := allowed.Stop(); sent != returned {
		t.Errorf("%d of %d allowed packets lost over 200 changes", sent-returned, sent)
	}
	if sent, returned := denied.Stop(); returned != 0 || sent == 0 {
		t.Errorf("%d of %d denied packets passed", returned, sent)
	}
}

// One peer that comes or goes is one element of the map; one whose rule changes
// is that, too.
func TestOnePeerIsOneElementOfAMap(t *testing.T) {
	ns := pod(t)
	set := func(i int, from ruleset.Peers) ruleset.RuleSet {
		rules := crowd(20)
		for j := range rules {
			rules[j].Matches[0].Peers = peers(fmt.Sprint("10.4.0.", j))
		}
		rules[i].Matches[0].Peers = from
		return ruleset.RuleSet{Addresses: both[:1], Ingress: isolated(rules...), Egress: open}
	}
	last := apply(t, ns, set(0, peers("10.4.0.0")), nil)
	for _, step := range []struct {
		what string
		rs   ruleset.RuleSet
	}{
		{"comes", set(0, peers("10.4.0.0", "10.9.9.9"))},
		{"is gone from its rule", set(0, ruleset.Peers{})},
		{"is another rule's", set(1, peers("10.4.0.0", "10.4.0.1"))},
		{"goes", set(0, peers("10.4.0.0"))},
	} {
		last = apply(t, ns, step.rs, last)
		if maps := ns.Run(t, "nft list maps inet"); !strings.Contains(maps, "map eth0/ingress/policy.0/tcp/80/ip {") {
			t.Errorf("a peer %s: the map has another edition:\n%s", step.what, maps)
		}
	}
}

// What somebody else did to a map is found and put right.
func TestMapIsRepaired(t *testing.T) {
	const m = "inet podwall eth0/ingress/policy.0/tcp/80/ip"
	for what, command := range map[string]string{
		"an element is gone":      "nft delete element " + m + " { 10.4.0.1 }",
		"there is one more":       "nft add element " + m + " { 192.0.2.1 : jump eth0/ingress/policy/shop/c2/0 }",
		"one leads elsewhere":     "nft delete element " + m + " { 10.4.0.1 } && nft add element " + m + " { 10.4.0.1 : jump eth0/ingress/policy/shop/c2/0 }",
		"one accepts by itself":   "nft delete element " + m + " { 10.4.0.1 } && nft add element " + m + " { 10.4.0.1 : accept }",
		"it accepts somebody new": "nft add element " + m + " { 192.0.2.1 : accept }",
	} {
		t.Run(what, func(t *testing.T) {
			ns := pod(t)
			rs := ruleset.RuleSet{Addresses: both[:1], Ingress: isolated(crowd(20)...), Egress: open}
			last := apply(t, ns, rs, nil)
			want := ns.Run(t, "nft list maps")
			ns.Run(t, command)
			now, wrote, err := nft.Apply(ns.FD(), "eth0", rs, last)
			if err != nil || !wrote || len(now.Found) == 0 {
				t.Fatalf("Apply: wrote %v, found %q, %v", wrote, now.Found, err)
			}
			if got := ns.Run(t, "nft list maps"); strings.ReplaceAll(got, ".b ", " ") != want {
				t.Errorf("maps are\n%s, want\n%s", got, want)
			}
		})
	}
}
