package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/podwall/podwall/integration/lab"
)

// The subjects of the datapath: what a pod may stand behind.
const (
	noFirewall = "no firewall"
	again      = "no firewall, again"
	tracked    = "connection tracking alone"
	byHand     = "minimal filter by hand, 1,000 peers"
	byHandBig  = "minimal filter by hand, 100,000 peers, 1,000 ports"
	linearRule = "a rule for each of 10,000 peers"
	unselected = "podwall, no policy selects the pod"
	peers10    = "podwall, 10 peers"
	peers1k    = "podwall, 1,000 peers"
	peers100k  = "podwall, 100,000 peers"
	rules50    = "podwall, 50 rules"
	rules1k    = "podwall, 1,000 rules"
	onePort1k  = "podwall, 1,000 rules for one port"
	full       = "podwall, 100,000 peers, 1,000 rules, guards"
	fullBoth   = full + ", at both ends"
)

// manyPeers is how large a policy's peers get.
const manyPeers = 100_000

// copies is how many pods a subject with a target has: where the kernel happened
// to put a pod's devices and sockets makes it faster or slower than its twin, by
// up to 3 %, for as long as it lives.
const copies = 6

// copiesOf is how many pods a subject has.
func copiesOf(name string) int {
	if slices.ContainsFunc(targets(0), func(c comparison) bool { return name == c.a || name == c.b }) {
		return copies
	}
	return 1
}

// shapes are the policies of podwall's subjects.
func shapes() map[string]shape {
	all := map[string]shape{
		peers10:   oneRule(tenPeers),
		peers1k:   oneRule(thousandPeers),
		peers100k: oneRule(allPeers),
		rules50:   manyPorts(50, thousandPeers),
		rules1k:   manyPorts(1000, thousandPeers),
		onePort1k: onePort(1000),
		full:      manyPorts(1000, allPeers),
	}
	sh := all[full]
	sh.egress = true
	all[full] = sh
	return all
}

const datapathText = `One pod sends to another over a veth pair and a bridge, IPv4; the firewall stands at the receiving pod alone. Each end waits in the
kernel for the other on a CPU of its own, like pods on two nodes. Where it says "its work alone", one thread is both ends and never waits:
nothing but the packets' way through the kernel is left, so a firewall's share is as large as it can look.`

// datapath compares what packets of a pod cost.
func (b *bench) datapath(ctx context.Context) error {
	// No thread of a load can be stopped, so nothing may want to.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // a waiting thread keeps its own
	s, err := newSite(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // the machine goes anyway
	for _, c := range b.comparisons() {
		if err := b.compare(ctx, s, c); err != nil {
			return err
		}
	}
	if !b.short {
		b.drawDatapath()
	}
	return nil
}

// drawDatapath draws what is left of no firewall's rates, by peers and by rules.
func (b *bench) drawDatapath() {
	left := func(l load, name string) float64 {
		for _, line := range b.lines {
			if line.what == l.name+": "+name && line.beside == noFirewall && line.target == nil {
				return line.got.median
			}
		}
		return 0
	}
	var peers, rules []series
	for _, l := range []load{requests(), stream(), datagrams(), connections()} {
		one := left(l, peers1k)
		peers = append(peers, series{l.name, []point{{10, left(l, peers10)}, {1000, one}, {manyPeers, left(l, peers100k)}}})
		rules = append(rules, series{l.name, []point{{1, one}, {50, left(l, rules50)}, {1000, left(l, rules1k)}}})
	}
	c := connections()
	rules = append(rules, series{"connections, one port", []point{{1, left(c, peers1k)}, {1000, left(c, onePort1k)}}})
	b.curve("peers", "What is left of the rate without firewall, by peers", "peers", "ratio", peers...)
	b.curve("rules", "What is left of the rate without firewall, by rules", "rules", "ratio", rules...)
}

// newSite makes a node with the subjects' pods.
func newSite(ctx context.Context) (*site, error) {
	n, err := lab.NewNode("datapath")
	if err != nil {
		return nil, err
	}
	s := &site{Node: n, subjects: map[string]subject{}}
	files := peerManifests(manyPeers)
	pods := map[string]string{unselected: "unselected"}
	var policies strings.Builder
	for name, sh := range shapes() {
		pods[name] = fmt.Sprintf("pod-%d", len(pods))
		policies.WriteString("---\n" + sh.manifest(pods[name], copiesOf(name)))
	}
	files["policies.yaml"] = policies.String()
	for name, text := range files {
		if err := n.WriteManifest(name, text); err != nil {
			return nil, err
		}
	}
	if err := s.start(ctx, pods); err != nil {
		_ = n.Close() // the machine goes anyway
		return nil, err
	}
	return s, nil
}

// start starts podwalld with every guard, and adds the pods. It is not shown
// libcni's cache: it would adopt the pods that are to stand without it.
func (s *site) start(ctx context.Context, pods map[string]string) (err error) {
	if err := s.Launch("--tamper-protection", "on", "--cni-cache-dir", filepath.Join(s.Dir, "none")); err != nil {
		return err
	}
	if err := serves(ctx, s.Node); err != nil {
		return err
	}
	bare := s.Network().WithChain()
	if s.client, err = s.attach(ctx, bare, fmt.Sprintf("peer-%d", clientIndex), clientAddr); err != nil {
		return err
	}
	for i, name := range []string{noFirewall, again} {
		if err := s.under(ctx, name, fmt.Sprintf("bare-%d", i), copiesOf(name), bare); err != nil {
			return err
		}
	}
	for name, rules := range map[string]string{
		tracked: tracking, byHand: minimal(1000, 1), byHandBig: minimal(manyPeers, 1000), linearRule: linear(10_000),
	} {
		if err := s.byHand(ctx, name, rules); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		if err := s.under(ctx, name, pods[name], copiesOf(name), s.Network()); err != nil {
			return err
		}
	}
	return nil
}

// A comparison is a line of the datapath's table.
type comparison struct {
	load      func() load
	a, b      string
	target    *target
	precision float64
}

// trackingCosts is what stands against targets beside no firewall.
const trackingCosts = `connection tracking by itself takes most of what the target leaves, or more, see "connection tracking alone" beside no
firewall. Every pod's connections must be tracked: a policy that selects it later must know which of them it has judged. What podwall adds is the
line beside "connection tracking alone".`

// targets are the comparisons with a target, and those that explain them.
func targets(fine float64) []comparison {
	return []comparison{
		{requests, full, noFirewall, atLeast(0.97).but(0.95, trackingCosts), fine},
		{requests, full, tracked, nil, fine},
		{stream, full, noFirewall, atLeast(0.97), fine},
		{connections, full, byHandBig, atLeast(0.97), fine},
		{connections, full, noFirewall, atLeast(0.88), fine},
		{requests, tracked, noFirewall, nil, fine},
		{requests, unselected, tracked, nil, fine},
		{requests, unselected, noFirewall, atLeast(0.99).but(0.96, trackingCosts), fine},
		{stream, unselected, noFirewall, atLeast(0.99).but(0.96, trackingCosts), fine},
		{connections, tracked, noFirewall, nil, fine},
		{connections, unselected, tracked, nil, fine},
		{connections, unselected, noFirewall, atLeast(0.93).but(0.91, trackingCosts), fine},
		{connections, rules1k, peers1k, atLeast(0.95), fine},
		{connections, onePort1k, peers1k, atLeast(0.95), fine},
	}
}

// comparisons are those with a target, and then every load of every subject
// beside no firewall. The short form has those with a target only.
func (b *bench) comparisons() []comparison {
	if b.short {
		return targets(0.01)
	}
	all := targets(0.004)
	for _, l := range []func() load{requests, stream, datagrams, connections} {
		for _, name := range []string{again, tracked, byHand, byHandBig, unselected, peers10, peers1k, peers100k, rules50, rules1k, onePort1k, full, linearRule} {
			all = append(all, comparison{l, name, noFirewall, nil, precision})
		}
	}
	for _, l := range []func() load{requestCost, connectionCost} {
		for _, name := range []string{again, tracked, byHand, byHandBig, unselected, peers1k, onePort1k, full, linearRule} {
			all = append(all, comparison{l, name, noFirewall, nil, precision})
		}
	}
	return all
}

// compare measures one line.
func (b *bench) compare(ctx context.Context, s *site, c comparison) error {
	runtime.GC()
	p := pairing{load: c.load(), a: s.subjects[c.a], b: s.subjects[c.b], precision: c.precision, pairs: 15}
	if c.precision < precision {
		p.pairs = 100
	}
	got, rate, err := p.ratio(ctx)
	if err != nil {
		return err
	}
	b.add(line{what: p.load.name + ": " + c.a, beside: c.b, got: got, target: c.target,
		rate: fmt.Sprintf("%.3g %s", rate.median, p.load.unit)})
	return nil
}
