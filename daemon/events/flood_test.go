package events_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

// Whoever may change the pod's nftables can log to podwall's group, too, without
// a limit. What no rule of podwall's can have logged is no event, and when it is
// far too much nobody reads it any more, until the next look.
func TestFlood(t *testing.T) {
	b := newBench(t, "", 2)
	b.acquaint(t)
	b.enforce(t, guarded(ruleset.Logging{Drops: true, Rate: 1, Burst: 10}))
	b.pod.Run(t, `nft 'table inet flood { chain c { type filter hook prerouting priority -300; udp dport 4000 log prefix "eth0/drop/forged" group 9469 drop; }; }'`)
	seen := b.watch(t, api.Filter{Peer: "lab/pod1"})
	to := netip.AddrPortFrom(b.pod.IP4, 4000)
	flood(t, b.lab.Pods[1].NS, to, 2000)
	netnstest.Eventually(t, func() error {
		if s := b.Stats(); s.Lost < 1000 {
			return errors.New("what nobody can have logged is not left out")
		}
		return nil
	})
	if n := len(seen.all()); n > 100 {
		t.Errorf("%d forged events of 2000", n)
	}
	netnstest.Eventually(t, func() error {
		if b.Stats().Listening == 0 {
			return nil
		}
		flood(t, b.lab.Pods[1].NS, to, 5_000)
		return errors.New("the flood is still read")
	})
	if p := b.Problems(); len(p) != 1 {
		t.Errorf("problems %v, want one", p)
	}
	b.enforce(t, guarded(ruleset.Logging{Drops: true, Rate: 1, Burst: 10}))
	if s := b.Stats(); s.Listening != 1 || s.Taken != 0 {
		t.Errorf("after the next look: %+v", s)
	}
}

// flood sends n datagrams as fast as it can.
func flood(t testing.TB, from *netnstest.NS, to netip.AddrPort, n int) {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range n {
		_, _ = c.Write([]byte("x")) // what is refused is no flood
	}
}
