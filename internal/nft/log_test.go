package nft_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// What is logged is nobody's verdict: it comes, changes and goes without making
// open connections be judged again, and without setting a counter back.
func TestLoggingComesAndGoes(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	pod, other := lab.Pods[0], lab.Pods[1]
	rs := ruleset.RuleSet{Ingress: isolated(), Egress: open}
	flow := netnstest.Flow{From: other.NS, Network: "udp", To: pod.Echo(t, "udp", pod.Addr4(0)).String()}
	flow.MustPass(t)
	known, _, err := nft.Apply(pod.FD(), "eth0", rs, nil)
	if err != nil {
		t.Fatal(err)
	}
	flow.MustBe(t, netnstest.Silent)
	drops := func() uint64 {
		counts, err := nft.Counters(pod.FD())
		if err != nil {
			t.Fatal(err)
		}
		return counts[ruleset.DropCounter("eth0", ruleset.Ingress)].Packets
	}
	if drops() == 0 {
		t.Fatal("nothing was dropped")
	}
	for _, log := range []ruleset.Logging{
		{Drops: true, Rate: 10, Burst: 100},
		{Drops: true, Rate: 1, Burst: 1},
		{Accepts: true, Rate: 1, Burst: 1},
		{},
	} {
		rs.Log = log
		before, epoch := drops(), known.Epoch
		var wrote bool
		if known, wrote, err = nft.Apply(pod.FD(), "eth0", rs, &known); err != nil || !wrote {
			t.Fatalf("%+v: wrote %v, %v", log, wrote, err)
		}
		if known.Epoch != epoch || drops() < before {
			t.Errorf("%+v: epoch %d, want %d; %d drops, want at least %d", log, known.Epoch, epoch, drops(), before)
		}
		flow.MustBe(t, netnstest.Silent)
	}
}

// A limit that somebody made another is found and put right.
func TestLimitOfSomebodyElse(t *testing.T) {
	ns := pod(t)
	rs := ruleset.RuleSet{Log: ruleset.Logging{Drops: true, Rate: 10, Burst: 100}}
	known, _, err := nft.Apply(ns.FD(), "eth0", rs, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := ns.Run(t, "nft list ruleset")
	ns.Run(t, "F="+t.TempDir()+"/rules; nft list ruleset | sed 's/over 10.second/over 1000\\/second/' >$F; nft flush ruleset; nft -f $F")
	diffs, _, err := nft.Check(ns.FD(), "eth0", known)
	if err != nil || !slices.Contains(diffs, "limit eth0/log-10-100: another one") {
		t.Errorf("Check: %q, %v; want it to find the limit", diffs, err)
	}
	if _, _, err := nft.Apply(ns.FD(), "eth0", rs, nil); err != nil {
		t.Fatal(err)
	}
	if got := ns.Run(t, "nft list ruleset"); strings.Count(got, "rate over 10/second") != strings.Count(want, "rate over 10/second") {
		t.Errorf("after the repair:\n%s", got)
	}
}
