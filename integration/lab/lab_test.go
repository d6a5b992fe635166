package lab

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Private(m.Run)) }

// newNode makes a node whose pod network has no plugin behind the bridge.
func newNode(t *testing.T) (*Node, Network) {
	t.Helper()
	n, err := NewNode("n" + filepath.Base(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, n.Network().WithChain()
}

func addPod(t *testing.T, n *Node, net Network, name string, addrs ...netip.Addr) *Sandbox {
	t.Helper()
	sb, err := n.NewSandbox("shop", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sb.Delete() })
	if err := n.Add(t.Context(), net, sb, "eth0", addrs...); err != nil {
		t.Fatal(err)
	}
	s, err := Serve(sb.Netns, sb.Addrs, 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return sb
}

// Everybody reaches everybody while nobody forbids it: whatever a test of
// podwall finds denied was denied by podwall.
func TestEverythingPassesWithoutPodwall(t *testing.T) {
	n, net := newNode(t)
	host4, host6 := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:113::10")
	if err := n.AddWorld(host4, host6); err != nil {
		t.Fatal(err)
	}
	world, err := Serve(n.World, []netip.Addr{host4, host6}, 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(world.Close)
	want4 := netip.MustParseAddr("10.1.0.77")
	a, b := addPod(t, n, net, "a", want4, netip.MustParseAddr("fd00:1::77")), addPod(t, n, net, "b")
	if a.Addr(false) != want4 {
		t.Errorf("address = %s, want the requested %s", a.Addr(false), want4)
	}

	var flows []Expectation
	flow := func(name string, from *Netns, source netip.Addr, to netip.Addr) {
		for _, proto := range []string{"tcp", "udp", "icmp"} {
			flows = append(flows, Expectation{Name: name + " " + proto + " " + to.String(), Pass: true,
				Flow: Flow{From: from, Source: source, Proto: proto, To: netip.AddrPortFrom(to, 80)}})
		}
	}
	for _, v6 := range []bool{false, true} {
		flow("pod to pod", a.Netns, netip.Addr{}, b.Addr(v6))
		flow("pod to itself", a.Netns, netip.Addr{}, a.Addr(v6))
		flow("node to pod", n.Netns, netip.Addr{}, a.Addr(v6))
	}
	flow("pod to world", a.Netns, netip.Addr{}, host4)
	flow("pod to world", a.Netns, netip.Addr{}, host6)
	flow("world to pod", n.World, host4, a.Addr(false))
	flow("world to pod", n.World, host6, a.Addr(true))
	flow("node's second address to pod", n.Netns, Second4, a.Addr(false))
	flow("node's second address to pod", n.Netns, Second6, a.Addr(true))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := Settle(ctx, flows); err != nil {
		t.Fatal(err)
	}

	if _, err := b.RunErr("nft add table inet t; nft 'add chain inet t c { type filter hook input priority 0; policy drop; }'"); err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		flows[i].Pass = flows[i].To.Addr() != b.Addr(false) && flows[i].To.Addr() != b.Addr(true)
	}
	if err := Settle(ctx, flows); err != nil {
		t.Errorf("with a pod that drops: %v", err)
	}
}

func TestMachineIsPrivate(t *testing.T) {
	if os.Getpid() != 1 {
		t.Errorf("process id = %d, want that of the machine's first process", os.Getpid())
	}
	for _, dir := range []string{"/run", "/run/netns"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if dir == "/run" && e.Name() != "netns" && e.Name() != "node" {
				t.Errorf("%s holds %s", dir, e.Name())
			}
		}
	}
}
