package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

const addText = `A pod is added through libcni and the reference bridge plugin, with one more plugin behind it; podwalld knows 10,000 pods and keeps its
state on a disk. A plugin's share is its own process, from start to end. At once means that all begin in the same instant.`

// A chain is the plugins behind the bridge, and the pod that is added through
// them.
type chain struct {
	name, plugin, pod string
	entries           []any
}

// chains are what a pod may be added through.
func chains(n *lab.Node) []chain {
	podwall := []any{n.Podwall()}
	return []chain{
		{"the bridge alone", "bridge", "bare", nil},
		{"a no-op plugin", "noop", "bare", []any{map[string]any{"type": "noop"}}},
		{"the reference firewall plugin", "firewall", "bare", []any{map[string]any{"type": "firewall"}}},
		{"podwall, 10 peers", "podwall", "ten", podwall},
		{"podwall, 1,000 peers", "podwall", "thousand", podwall},
		{"podwall, 10,000 peers", "podwall", "all", podwall},
	}
}

// adds compares what a new pod waits for.
func (b *bench) adds(ctx context.Context) error {
	n, err := newAddNode(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = n.Close() }() // the machine goes anyway
	m := &meter{noop: filepath.Join(".cache", "noop"), took: map[string][]time.Duration{}}
	if m.noop, err = filepath.Abs(m.noop); err != nil {
		return err
	}
	n.Exec = m
	if err := b.oneByOne(ctx, n, m); err != nil {
		return err
	}
	if err := b.leastADD(ctx, n, m); err != nil {
		return err
	}
	if err := b.binary(n); err != nil || b.short {
		return err
	}
	for _, many := range []int{110, 250} {
		if err := b.atOnce(ctx, n, many); err != nil {
			return err
		}
	}
	return nil
}

// newAddNode makes a node whose podwalld knows 10,000 pods and keeps its state
// on a disk.
func newAddNode(ctx context.Context) (*lab.Node, error) {
	disk, err := filepath.Abs(filepath.Join(".cache", "bench-state"))
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(disk); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return nil, err
	}
	n, err := lab.NewNode("add", lab.StateOn(disk))
	if err != nil {
		return nil, err
	}
	files := peerManifests(10_000)
	files["policies.yaml"] = strings.Join([]string{
		oneRule(tenPeers).manifest("ten", 1), oneRule(thousandPeers).manifest("thousand", 1), oneRule(allPeers).manifest("all", 1),
	}, "---\n")
	for name, text := range files {
		if err := n.WriteManifest(name, text); err != nil {
			return nil, err
		}
	}
	return n, n.Start(ctx, "--cni-cache-dir", filepath.Join(n.Dir, "none"))
}

// oneByOne adds and deletes a pod through each chain in turn, in changing order.
func (b *bench) oneByOne(ctx context.Context, n *lab.Node, m *meter) error {
	rounds := 100
	if b.short {
		rounds = 25
	}
	all := chains(n)
	whole, share := map[string][]float64{}, map[string][]float64{}
	for range rounds {
		for _, i := range rand.Perm(len(all)) {
			c := all[i]
			took, err := addOnce(ctx, n, c)
			if err != nil {
				return err
			}
			whole[c.name] = append(whole[c.name], ms(took))
			share[c.name] = append(share[c.name], ms(m.last(c.plugin)))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	b.compareAdds(whole, share)
	for _, c := range all {
		b.add(line{what: "ADD, p50: " + c.name, unit: "ms", got: summarize(whole[c.name])})
		b.add(line{what: "ADD, p99: " + c.name, unit: "ms", got: tail(whole[c.name])})
		b.add(line{what: "share of ADD, p50: " + c.name, unit: "ms", got: summarize(share[c.name])})
		if c.plugin != "podwall" {
			continue
		}
		memory, err := memories(ctx, n, m, c)
		if err != nil {
			return err
		}
		b.add(line{what: "plugin, resident at most: " + c.name, unit: "MB", got: summarize(memory), target: atMost(15)})
	}
	return nil
}

// addCosts is what stands against podwall's target beside a plugin that does nothing.
const addCosts = `the kernel's transaction by itself takes as long as the no-op plugin and more, see "at least: a no-op plugin and the
transaction". More than a quarter of it is the message that the kernel writes about each address of a new set while anybody on the node listens to
nftables, as podwalld does to hear of tampering.`

// leastADD measures what no plugin that installs the rules can go below: a process
// that does nothing, and the kernel's transaction.
func (b *bench) leastADD(ctx context.Context, n *lab.Node, m *meter) error {
	peers := make([]netip.Prefix, 1000)
	for i := range peers {
		peers[i] = netip.PrefixFrom(peerAddr(i), 32)
	}
	admits := ruleset.Rule{Action: ruleset.Accept, Matches: []ruleset.Match{{
		Peers: ruleset.NewPeers(peers), Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: port, Last: port}},
	}}}
	rules := ruleset.RuleSet{
		Ingress: ruleset.Chain{Tiers: []ruleset.Tier{{Name: ruleset.TierPolicy, Rules: []ruleset.Rule{admits}}}},
		Egress:  ruleset.Chain{Default: ruleset.Accept},
	}
	nothing := chains(n)[1]
	var alone, both []float64
	for range 30 {
		sb, _, err := nothing.add(ctx, n)
		if err != nil {
			return err
		}
		start := time.Now()
		if _, _, err := nft.Apply(sb.FD(), "eth0", rules, nil); err != nil {
			return err
		}
		transaction := ms(time.Since(start))
		alone = append(alone, transaction)
		both = append(both, 1+transaction/ms(m.last(nothing.plugin)))
		if err := nothing.remove(ctx, n, sb); err != nil {
			return err
		}
	}
	b.add(line{what: "the transaction of 1,000 peers, in a process that runs already", unit: "ms", got: summarize(alone)})
	b.add(line{what: "at least: a no-op plugin and the transaction", beside: nothing.name, got: summarize(both)})
	return nil
}

// memories are how much memory the plugin used at most in each of ten ADDs, in MB.
func memories(ctx context.Context, n *lab.Node, m *meter, c chain) ([]float64, error) {
	m.watching(true)
	defer m.watching(false)
	var list []float64
	for range 10 {
		if _, err := addOnce(ctx, n, c); err != nil {
			return nil, err
		}
		list = append(list, m.resident())
	}
	return list, nil
}

// compareAdds puts podwall's part in ADD beside others', and draws it.
func (b *bench) compareAdds(whole, share map[string][]float64) {
	const (
		mine = "podwall, 1,000 peers"
		noop = "a no-op plugin"
		rule = "the reference firewall plugin"
	)
	b.add(line{what: "share of ADD: " + mine, beside: rule, got: summarize(ratios(share[mine], share[rule])), target: atMost(1)})
	b.add(line{what: "share of ADD: " + mine, beside: noop, got: summarize(ratios(share[mine], share[noop])),
		target: atMost(2).but(4.5, addCosts)})
	b.add(line{what: "whole ADD: " + mine, beside: noop, got: summarize(ratios(whole[mine], whole[noop]))})
	median := func(name string) float64 { return summarize(share[name]).median }
	b.curve("add", "What a plugin adds to ADD, by peers of the pod", "peers", "ms",
		series{"podwall", []point{{10, median("podwall, 10 peers")}, {1000, median(mine)}, {10_000, median("podwall, 10,000 peers")}}},
		flat("reference firewall plugin", median(rule), 10, 10_000), flat("no-op plugin", median(noop), 10, 10_000))
}

// binary says how large the plugin is.
func (b *bench) binary(n *lab.Node) error {
	info, err := os.Stat(n.Binary("podwall"))
	if err != nil {
		return err
	}
	b.add(line{what: "plugin, on disk", unit: "MB", got: exactly(float64(info.Size()) / 1e6), target: atMost(5)})
	return nil
}

// addOnce adds a pod and deletes it, and returns how long ADD took.
func addOnce(ctx context.Context, n *lab.Node, c chain) (time.Duration, error) {
	sb, took, err := c.add(ctx, n)
	if err != nil {
		return 0, err
	}
	return took, c.remove(ctx, n, sb)
}

func (c chain) add(ctx context.Context, n *lab.Node) (*lab.Sandbox, time.Duration, error) {
	sb, err := n.NewSandbox("shop", c.pod)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	if err := n.Add(ctx, n.Network().WithChain(c.entries...), sb, "eth0"); err != nil {
		return nil, 0, fmt.Errorf("add pod through %s: %w\n%s", c.name, err, n.LogTail())
	}
	return sb, time.Since(start), nil
}

func (c chain) remove(ctx context.Context, n *lab.Node, sb *lab.Sandbox) error {
	if err := n.Del(ctx, n.Network().WithChain(c.entries...), sb, "eth0"); err != nil {
		return fmt.Errorf("delete pod through %s: %w", c.name, err)
	}
	return sb.Delete()
}

// atOnce adds many pods at the same time, through some of the chains.
func (b *bench) atOnce(ctx context.Context, n *lab.Node, many int) error {
	for _, c := range chains(n) {
		if c.name != "a no-op plugin" && c.plugin != "firewall" && c.pod != "thousand" {
			continue
		}
		took := make([]float64, many)
		pods := make([]*lab.Sandbox, many)
		errs := make([]error, many)
		var all sync.WaitGroup
		start := time.Now()
		for i := range many {
			all.Go(func() {
				var d time.Duration
				pods[i], d, errs[i] = c.add(ctx, n)
				took[i] = ms(d)
			})
		}
		all.Wait()
		last := time.Since(start)
		for i, sb := range pods {
			if errs[i] != nil {
				return errs[i]
			}
			if err := c.remove(ctx, n, sb); err != nil {
				return err
			}
		}
		what := fmt.Sprintf("%d ADDs at once", many)
		b.add(line{what: what + ", all done: " + c.name, unit: "ms", got: exactly(ms(last))})
		b.add(line{what: what + ", p50: " + c.name, unit: "ms", got: summarize(took)})
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
