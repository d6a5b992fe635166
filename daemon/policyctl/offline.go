package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/policy"
)

// manifests reads those in dir, and reports what can't be honoured.
func (c *cli) manifests(dir string) (source.World, error) {
	if st, err := os.Stat(dir); err != nil {
		return source.World{}, fmt.Errorf("read manifests: %w", err)
	} else if !st.IsDir() {
		return source.World{}, usagef("%s: want a directory of manifests", dir)
	}
	world := c.read(dir)
	if world.Unknown != "" {
		return source.World{}, fmt.Errorf("read manifests: %s", world.Unknown)
	}
	for _, p := range world.Problems {
		fmt.Fprintf(c.stderr, "policyctl: warning: %s\n", oneLine(p.String()))
	}
	return world, nil
}

// rehearsal is manifests for those who ask about flows: each pod has an address.
// Manifests of a cluster to be have none yet. What is made up for them is said.
func (c *cli) rehearsal(dir string) (source.World, error) {
	world, err := c.manifests(dir)
	if err != nil {
		return source.World{}, err
	}
	pods, madeUp := addressed(world.Pods)
	world.Pods = pods
	if len(madeUp) > 0 {
		fmt.Fprintf(c.stderr, "policyctl: note: %s without status.podIPs: judged at addresses that are made up, the first %s for %s; rules by label hold there, rules by ipBlock may not\n",
			many(uint64(len(madeUp)), "pod", "pods"), madeUp[0].Addresses[0], clean(madeUp[0].Namespace+"/"+madeUp[0].Name))
	}
	return world, nil
}

// Addresses that are made up come from blocks that no network uses: one that IPv4
// has reserved for ever, and one of IPv6 in which everything is discarded.
var (
	madeUp4 = netip.MustParseAddr("240.0.0.0")
	madeUp6 = netip.MustParseAddr("100::")
)

// addressed returns pods with an address of each of the cluster's families for
// those that have none, and these. Pods that have ended have no network, and the
// address of one on its node's network is its node's affair.
func addressed(pods []policy.Pod) (all, madeUp []policy.Pod) {
	v4, v6 := false, false
	for _, p := range pods {
		v4 = v4 || slices.ContainsFunc(p.Addresses, netip.Addr.Is4)
		v6 = v6 || slices.ContainsFunc(p.Addresses, netip.Addr.Is6)
	}
	all = slices.Clone(pods)
	for i, p := range all {
		if len(p.Addresses) > 0 || p.HostNetwork || p.Done {
			continue
		}
		n := uint32(len(madeUp) + 1)
		if v4 || !v6 {
			p.Addresses = append(p.Addresses, nth(madeUp4, n))
		}
		if v6 {
			p.Addresses = append(p.Addresses, nth(madeUp6, n))
		}
		all[i], madeUp = p, append(madeUp, p)
	}
	return all, madeUp
}

// nth is the n-th address after base, whose last four bytes are zero but for 240.
func nth(base netip.Addr, n uint32) netip.Addr {
	b := base.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+n)
	a, _ := netip.AddrFromSlice(b) // of as many bytes as it was
	return a
}
