package nft

import (
	"context"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

// When the epochs start again, a connection that was accepted in the last round's
// first epoch must not pass for accepted in this round's.
func TestEpochsStartAgainWithoutOldAcceptances(t *testing.T) {
	lab := netnstest.Bridge(t, 2)
	client, server := lab.Pods[0], lab.Pods[1]
	server.Echo(t, "tcp", ":80")
	openSet := ruleset.RuleSet{Ingress: ruleset.Chain{Default: ruleset.Accept}, Egress: ruleset.Chain{Default: ruleset.Accept}}

	first, _, err := Apply(server.FD(), "eth0", openSet, nil)
	if err != nil || first.Epoch != 1 {
		t.Fatalf("first epoch %d, %v", first.Epoch, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, "tcp", server.Addr4(80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := netnstest.Echoed(c, time.Second); err != nil {
		t.Fatal(err)
	}

	last := jump(t, server.FD(), openSet, ruleset.MaxEpoch)
	again, _, err := Apply(server.FD(), "eth0", ruleset.RuleSet{}, &last)
	if err != nil || again.Epoch != 1 {
		t.Fatalf("after epoch %d came %d, %v", ruleset.MaxEpoch, again.Epoch, err)
	}
	if netnstest.Echoed(c, 300*time.Millisecond) == nil {
		t.Error("a connection accepted in epoch 1 of the last round passes in epoch 1 of this one")
	}
}

// jump puts rs in place in the given epoch.
func jump(t *testing.T, netns int, rs ruleset.RuleSet, epoch ruleset.Epoch) Known {
	t.Helper()
	index, err := Index(netns, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(netns)
	if err != nil {
		t.Fatal(err)
	}
	defer done(c)
	r, err := read(c.Conn, ruleset.Prefix("eth0"))
	if err != nil {
		t.Fatal(err)
	}
	dev := device{index: index, name: "eth0"}
	if _, _, err := commit(c.Conn, dev, r, targets(Known{Rules: rs, Epoch: epoch}, "eth0"), false); err != nil {
		t.Fatal(err)
	}
	g, err := Generation(netns)
	if err != nil {
		t.Fatal(err)
	}
	return Known{Rules: rs, Epoch: epoch, Generation: g}
}
