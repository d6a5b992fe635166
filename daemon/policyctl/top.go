package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A ranking is what the flags of top say.
type ranking struct {
	namespace string
	by        string
	once      bool
	interval  time.Duration
	rows      int
}

// The orders of top.
const (
	byDrops   = "drops"
	byTraffic = "traffic"
)

// top builds `policyctl top`.
func (c *cli) top() *cobra.Command {
	var r ranking
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the pods and rules that drop, or let through, the most",
		Long: `top shows the pods of this node by what their rules drop or by their traffic, and
their rules by what meets them. On a terminal it refreshes in place, with what
happens in a second; elsewhere, and with --once, it shows the sums so far.

A rule counts what it judges: the first packet of each flow, and the next one of
each open flow when policies change.`,
		Example: `  policyctl top --by traffic
  policyctl top --once -o json | jq '.[].dropped'`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error { return c.runTop(ctx, r) }),
	}
	f := cmd.Flags()
	f.StringVarP(&r.namespace, "namespace", "n", "", "only pods in this `NAMESPACE`")
	f.StringVar(&r.by, "by", byDrops, "drops or traffic")
	f.BoolVar(&r.once, "once", false, "show the sums so far and end")
	f.DurationVar(&r.interval, "interval", 2*time.Second, "time between two looks")
	f.IntVar(&r.rows, "rows", 15, "how many pods, and how many rules")
	completeFlag(cmd, "namespace", c.podNames(namespaceOf))
	suggestFlag(cmd, "by", byDrops, byTraffic)
	completeFlag(cmd, "interval", cobra.NoFileCompletions)
	completeFlag(cmd, "rows", cobra.NoFileCompletions)
	return cmd
}

func (c *cli) runTop(ctx context.Context, r ranking) error {
	if r.by != byDrops && r.by != byTraffic {
		return usagef("--by %q: want drops or traffic", r.by)
	}
	if r.interval <= 0 || r.rows <= 0 {
		return usagef("--interval and --rows: want more than nothing")
	}
	now, err := c.look(ctx, r)
	if err != nil {
		return err
	}
	if r.once || !c.terminal || c.output == jsonText || c.output == yamlText {
		if len(now) == 0 {
			c.none("pods", r.namespace)
		}
		return c.show(now, func(p *page) { c.drawTop(p, r, now, nil, 0) })
	}
	return c.refresh(ctx, r, now)
}

// refresh draws what is new again and again, in place, until ctx ends: first the
// sums, then what was added to them.
func (c *cli) refresh(ctx context.Context, r ranking, now []api.Traffic) error {
	var before []api.Traffic
	at := c.now()
	for took := time.Duration(0); ; {
		p := &page{color: !c.noColor && !c.plain}
		p.line(bold.in("policyctl top"), plain("  by "+r.by+", every "+r.interval.String()), dim.in("  "+stamp(c.now())))
		p.gap()
		c.drawTop(p, r, now, before, took)
		if _, err := fmt.Fprint(c.stdout, "\x1b[H\x1b[J"+p.b.String()); err != nil { // from the top, clear below
			return err
		}
		select {
		case <-ctx.Done():
			return nil // interrupted
		case <-time.After(r.interval):
		}
		next, err := c.look(ctx, r)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		before, now = now, next
		took, at = max(c.now().Sub(at), 1), c.now()
	}
}

// look asks the daemon what was counted.
func (c *cli) look(ctx context.Context, r ranking) ([]api.Traffic, error) {
	list := []api.Traffic{}
	if err := c.ask(ctx, api.VerbTop, nil, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(t api.Traffic) bool { return r.namespace != "" && t.Namespace != r.namespace }), nil
}

// A rate is a sum, and what was added to it in a second; below zero where that
// is not known.
type rate struct {
	sum       uint64
	perSecond float64
}

// rateOf compares a sum with an earlier one.
func rateOf(now uint64, before *uint64, took time.Duration) rate {
	r := rate{sum: now, perSecond: -1}
	if before != nil && took > 0 && now >= *before {
		r.perSecond = float64(now-*before) / took.Seconds()
	}
	return r
}

// text is the rate, or where there is none the sum.
func (r rate) text(unit func(uint64) string) text {
	switch {
	case r.perSecond < 0:
		return plain(unit(r.sum))
	case r.perSecond == 0:
		return dim.in("0")
	case r.perSecond < 10:
		return plainf("%.1f", r.perSecond)
	}
	return plain(unit(uint64(r.perSecond)))
}

// key is what to sort by: what happens now, before what has happened.
func (r rate) key() float64 {
	if r.perSecond >= 0 {
		return r.perSecond + float64(r.sum)/1e18
	}
	return float64(r.sum)
}

// A podRow is one pod of top.
type podRow struct {
	api.Traffic
	drops, hidden, received, sent rate
}

// A ruleRow is one rule of top.
type ruleRow struct {
	pod  string
	rule api.RuleView
	hits rate
}

func (c *cli) drawTop(p *page, r ranking, now, before []api.Traffic, took time.Duration) {
	pods, rules := rowsOf(now, before, took)
	slices.SortStableFunc(pods, func(a, b podRow) int {
		drops, traffic := cmp.Compare(b.drops.key(), a.drops.key()), cmp.Compare(b.received.key()+b.sent.key(), a.received.key()+a.sent.key())
		if r.by == byTraffic {
			return cmp.Or(traffic, drops)
		}
		return cmp.Or(drops, traffic)
	})
	slices.SortStableFunc(rules, func(a, b ruleRow) int {
		if r.by == byDrops {
			if c := cmp.Compare(rank(a.rule.Verdict), rank(b.rule.Verdict)); c != 0 {
				return c
			}
		}
		return cmp.Compare(b.hits.key(), a.hits.key())
	})
	per := ""
	if before != nil {
		per = "/S"
	}
	g := newGrid("NAMESPACE", "NAME", "INTERFACE", ">DROPS"+per, ">HIDDEN"+per, ">RECEIVED"+per, ">SENT"+per, ">DROPS")
	if before == nil {
		g = newGrid("NAMESPACE", "NAME", "INTERFACE", ">DROPS", ">HIDDEN", ">RECEIVED", ">SENT")
	}
	for _, t := range pods[:min(len(pods), r.rows)] {
		cells := []text{plain(t.Namespace), append(bold.in(orElse(t.Name, t.Key.String())), audited(t.Audit)...), plain(t.Interface),
			t.drops.text(count), t.hidden.text(count), t.received.text(octets), t.sent.text(octets)}
		if before != nil {
			cells = append(cells, plain(count(t.drops.sum)))
		}
		g.row(cells...)
	}
	p.draw(g, "")
	if len(rules) == 0 {
		return
	}
	p.gap()
	g = newGrid("POD", "DIRECTION", "RULE", "VERDICT", ">HITS"+per)
	for _, t := range rules[:min(len(rules), r.rows)] {
		g.row(plain(t.pod), plain(t.rule.Direction.String()), plainf("%s %s[%d]", t.rule.Kind, t.rule.Policy, t.rule.Index), actionText(t.rule.Verdict), t.hits.text(count))
	}
	p.draw(g, "")
}

// audited marks a pod whose NetworkPolicies are not enforced.
func audited(yes bool) text {
	if !yes {
		return nil
	}
	return yellow.in(" (audit)")
}

// rank puts rules that drop before those that accept.
func rank(a ruleset.Action) int {
	if a == ruleset.Drop {
		return 0
	}
	return 1
}

// actionText is a rule's action, in its colour.
func actionText(a ruleset.Action) text {
	if a == ruleset.Drop {
		return red.in(a.String())
	}
	return plain(a.String())
}

// rowsOf compares what was counted with what was counted before.
func rowsOf(now, before []api.Traffic, took time.Duration) (pods []podRow, rules []ruleRow) {
	was := map[api.Key]*api.Traffic{}
	for i := range before {
		was[before[i].Key] = &before[i]
	}
	for _, t := range now {
		old := was[t.Key]
		against := func(sum func(*api.Traffic) uint64) rate {
			if old == nil {
				return rateOf(sum(&t), nil, 0)
			}
			b := sum(old)
			return rateOf(sum(&t), &b, took)
		}
		pods = append(pods, podRow{Traffic: t, drops: against(drops), hidden: against(func(t *api.Traffic) uint64 { return t.Hidden.Drops + t.Hidden.Accepts }),
			received: against(func(t *api.Traffic) uint64 { return t.Received.Bytes }), sent: against(func(t *api.Traffic) uint64 { return t.Sent.Bytes })})
		for i, r := range t.Rules {
			rules = append(rules, ruleRow{pod: t.Pod(), rule: r, hits: against(func(t *api.Traffic) uint64 { return hits(t, i, r) })})
		}
	}
	return pods, rules
}

// hits is what rule r, number i, counted; nothing where the rules are others.
func hits(t *api.Traffic, i int, r api.RuleView) uint64 {
	if i < len(t.Rules) && t.Rules[i].Policy == r.Policy && t.Rules[i].Index == r.Index && t.Rules[i].Direction == r.Direction {
		return t.Rules[i].Packets
	}
	return r.Packets
}

// drops is what an attachment's rules dropped, for whatever reason.
func drops(t *api.Traffic) uint64 {
	var n uint64
	for _, d := range t.Dropped {
		if d.Direction != "audited" {
			n += d.Packets
		}
	}
	for _, r := range t.Rules {
		if r.Verdict == ruleset.Drop {
			n += r.Packets
		}
	}
	return n
}
