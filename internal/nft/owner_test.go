package nft_test

import (
	"errors"
	"testing"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// What a process with CAP_NET_ADMIN in the pod's namespace might try.
var tampering = []string{
	"nft flush chain inet podwall eth0/ingress",
	"nft insert rule inet podwall eth0/ingress accept",
	"nft delete table inet podwall",
	"nft delete table netdev podwall",
	"nft add chain inet podwall eth0/postrouting '{ policy accept; }'",
}

func TestOnlyTheOwnerChangesTheTables(t *testing.T) {
	ns := pod(t)
	rs := samples["peers of both families, blocks and ports"]
	rs.Owned = true
	now := apply(t, ns, rs, nil) // as the plugin does, and ends

	owner, generation, err := nft.Own(ns.FD(), now.Generation)
	if err != nil || owner == nil || generation == 0 {
		t.Fatalf("Own: %v, generation %d, %v", owner, generation, err)
	}
	if now.Generation = generation; now.Generation != generationOf(t, ns) {
		t.Errorf("Own says generation %d, the kernel %d", generation, generationOf(t, ns))
	}
	for _, harm := range tampering {
		if _, err := ns.RunErr(harm); err == nil {
			t.Errorf("%s: done, although the tables have an owner", harm)
		}
	}
	ns.Run(t, "nft flush ruleset") // passes them by, without an error
	if diffs, _, err := nft.Check(ns.FD(), "eth0", *now); err != nil || len(diffs) > 0 {
		t.Errorf("after all that: %q, %v", diffs, err)
	}
	if _, _, err := nft.Own(ns.FD(), 0); !errors.Is(err, nft.ErrNotOurs) {
		t.Errorf("a second owner: %v", err)
	}
	narrower := rs
	narrower.Ingress = isolated()
	then, wrote, err := owner.Apply(ns.FD(), "eth0", narrower, now)
	if err != nil || !wrote || then.Epoch == now.Epoch {
		t.Errorf("the owner's change: wrote %v, epoch %d after %d, %v", wrote, then.Epoch, now.Epoch, err)
	}
	if _, _, err := nft.Apply(ns.FD(), "eth0", rs, nil); err == nil {
		t.Error("another socket of this process: changed the owner's tables")
	}

	// Without its owner a table stays, can be harmed, and is taken over again.
	owner.Close()
	var again *nft.Owner
	netnstest.Eventually(t, func() (err error) {
		again, generation, err = nft.Own(ns.FD(), then.Generation+7)
		return err
	})
	if generation != 0 {
		t.Errorf("Own says generation %d where it was another before", generation)
	}
	if diffs, _, err := nft.Check(ns.FD(), "eth0", then); err != nil || len(diffs) > 0 {
		t.Errorf("taken over again: %q, %v", diffs, err)
	}
	again.Close()
}

// An attachment without the flag has nothing to own, and one more interface of
// an owned pod belongs to the same tables.
func TestOwnershipIsByNamespace(t *testing.T) {
	ns := pod(t)
	apply(t, ns, ruleset.RuleSet{}, nil)
	if owner, _, err := nft.Own(ns.FD(), 0); owner != nil || err != nil {
		t.Errorf("Own of tables without the flags: %v, %v", owner, err)
	}
	ns = pod(t)
	ns.Run(t, "ip link add net1 type veth peer name far1")
	apply(t, ns, ruleset.RuleSet{Owned: true}, nil)
	owner, _, err := nft.Own(ns.FD(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	if _, _, err := owner.Apply(ns.FD(), "net1", ruleset.RuleSet{Owned: true}, nil); err != nil {
		t.Errorf("a second interface: %v", err)
	}
}

func generationOf(t *testing.T, ns *netnstest.NS) uint32 {
	t.Helper()
	g, err := nft.Generation(ns.FD())
	if err != nil {
		t.Fatal(err)
	}
	return g
}
