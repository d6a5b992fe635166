package reconcile

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Reason is why a packet was dropped.
type Reason string

const (
	ReasonPolicy    Reason = "policy"    // the pod is isolated and no rule accepts it
	ReasonRule      Reason = "rule"      // a rule drops it
	ReasonUntracked Reason = "untracked" // it belongs to no connection
	ReasonForged    Reason = "forged"    // it has another's address, or came past the IP stack
	ReasonAudit     Reason = "audit"     // it was not: a policy would drop it, but its pod is audited
)

// A Drop counts the packets that one attachment's rules dropped in one direction
// for one reason, since the rules stand.
type Drop struct {
	Direction string // ingress or egress; both for what the rules don't tell apart
	Reason    Reason
	nft.Count
}

// Dropped is the Drops of one attachment; none, not even of zero, if they could
// not be read.
type Dropped struct {
	api.Key
	Namespace, Name string
	Drops           []Drop
}

// Dropped reads from the kernel what the attachments' rules have dropped. It
// reads Parallel namespaces at once, and begins none after ctx ends.
func (k *Keeper) Dropped(ctx context.Context) []Dropped {
	as := k.settled()
	all := make([]Dropped, len(as))
	var g errgroup.Group
	g.SetLimit(max(k.Parallel, 1))
	for i, a := range as {
		g.Go(func() error {
			all[i] = k.dropped(ctx, a)
			return nil
		})
	}
	_ = g.Wait() // what can't be read says so itself
	return all
}

func (k *Keeper) dropped(ctx context.Context, a *attachment) Dropped {
	k.mu.Lock()
	d := Dropped{Key: a.record.Key, Namespace: a.record.Namespace, Name: a.record.Name}
	known := a.known
	k.mu.Unlock()
	if known == nil || ctx.Err() != nil {
		return d
	}
	netns, err := k.open(a)
	if err != nil {
		return d
	}
	defer netns.Close()
	counts, err := k.Kernel.Counters(int(netns.Fd()))
	if err == nil {
		d.Drops = dropsOf(d.Interface, known.Rules, counts)
	}
	return d
}

// dropsOf is what the counters of an interface say about drops, those of zero too.
func dropsOf(iface string, rs ruleset.RuleSet, counts map[string]nft.Count) []Drop {
	sum := func(names ...string) (n nft.Count) {
		for _, name := range names {
			n.Packets += counts[name].Packets
			n.Bytes += counts[name].Bytes
		}
		return n
	}
	list := []Drop{{ruleset.Egress.String(), ReasonForged, sum(ruleset.ForgedCounter(iface), ruleset.GuardCounter(iface))}}
	open := true
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		open = open && rs.Enforced(d).Open()
		dropping, audited := refusals(iface, rs, d)
		list = append(list,
			Drop{d.String(), ReasonPolicy, sum(ruleset.DropCounter(iface, d))},
			Drop{d.String(), ReasonRule, sum(dropping...)},
			Drop{d.String(), ReasonAudit, sum(append(audited, ruleset.AuditCounter(iface, d))...)})
	}
	if !open { // else such packets pass, and are counted all the same
		list = append(list, Drop{"both", ReasonUntracked, sum(ruleset.UntrackedCounter(iface))})
	}
	return list
}

// refusals are the counters of the rules that drop, and of those that would
// without audit.
func refusals(iface string, rs ruleset.RuleSet, d ruleset.Direction) (dropping, audited []string) {
	enforced := rs.Enforced(d)
	for i, t := range rs.Chain(d).Tiers {
		for j, r := range t.Rules {
			name := ruleset.CounterOf(iface, d, t.Name, r)
			switch {
			case r.Action != ruleset.Drop:
			case enforced.Tiers[i].Rules[j].Action == ruleset.Drop:
				dropping = append(dropping, name)
			default:
				audited = append(audited, name)
			}
		}
	}
	return dropping, audited
}
