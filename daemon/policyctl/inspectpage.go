package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func (c *cli) drawInspection(p *page, in api.Inspection) {
	p.line(bold.in(in.Pod()), plain("  "), cyan.in(in.Interface), plain("  "), state(in.Status.State), saying(in.Status.Message))
	p.gap()
	p.facts(
		fact{"addresses", plain(orElse(addresses(in.Addresses, ", "), "none"))},
		fact{"labels", maybe(labels(in.Labels))},
		fact{"uid", maybe(in.UID)},
		fact{"container", maybe(in.ContainerID)},
		fact{"netns", maybe(in.Netns)},
		fact{"network", maybe(in.Network)},
		fact{"isolation", join(" · ", isolated("ingress", in.Isolation.Ingress), isolated("egress", in.Isolation.Egress))},
		fact{"", auditing(in.Audit)},
		fact{"applied", applied(in.Status, c.now())},
		fact{"kernel", kernel(in.Kernel)},
	)
	for _, d := range in.Kernel.Differences {
		p.line(plain("    "), red.in("✗ "), plain(d))
	}
	p.gap()
	drawSelecting(p, in.Policies)
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		p.gap()
		drawDirection(p, in, d, c.output == wide)
	}
	drawOdd(p, in.Dropped)
}

// drawOdd shows what was dropped that no policy speaks about.
func drawOdd(p *page, drops []api.DropView) {
	about := map[string][2]string{
		"untracked": {"Untracked", "  what belongs to no connection is dropped: "},
		"audited":   {"Audited", "  flows that no policy allows, and that pass: "},
		"forged":    {"Forged", "  what the pod sent in another's name, or past the IP stack, is dropped: "},
	}
	for _, d := range drops {
		if words, ok := about[d.Direction]; ok && d.Packets > 0 {
			p.gap()
			p.line(bold.in(words[0]), plain(words[1]), yellow.in(dropped(d)))
		}
	}
}

// auditing says that isolation is not what it seems.
func auditing(yes bool) text {
	if !yes {
		return nil
	}
	return yellow.in("audit: NetworkPolicies are not enforced; what they would drop passes, and is shown by policyctl monitor")
}

func maybe(s string) text {
	if s == "" {
		return nil
	}
	return plain(s)
}

func saying(message string) text {
	if message == "" {
		return nil
	}
	return plain(": " + message)
}

func labels(ls map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(ls)) {
		parts = append(parts, k+"="+ls[k])
	}
	return strings.Join(parts, ", ")
}

func isolated(direction string, by bool) text {
	if by {
		return plain(direction + " isolated")
	}
	return plain(direction + " open")
}

// applied says which rules stand since when.
func applied(s api.AttachmentStatus, now time.Time) text {
	when := yellow.in("not yet")
	if !s.AppliedAt.IsZero() {
		when = plain(ago(s.AppliedAt, now))
		if t := took(s.Took); t != "" {
			when = append(when, span{text: " in " + t})
		}
	}
	return join(" · ", when, plainf("epoch %d", s.Epoch), revisionOf(s.Revision), maybeDim(stamp(s.AppliedAt)))
}

func revisionOf(r string) text {
	if r == "" {
		return nil
	}
	return plain("revision " + revision(r))
}

func maybeDim(s string) text {
	if s == "" {
		return nil
	}
	return dim.in(s)
}

// kernel says whether what stands in the kernel is what should.
func kernel(k api.KernelView) text {
	sync := green.in("✓ in sync")
	switch {
	case k.Error != "":
		return red.in("✗ could not be read: " + k.Error)
	case !k.InSync:
		sync = red.in("✗ differs from what it should be")
	}
	return join(" · ", sync, plain("table "+k.Table), plainf("generation %d", k.Generation))
}

func drawSelecting(p *page, policies []api.SelectingPolicy) {
	if len(policies) == 0 {
		p.line(bold.in("Selected by"), plain(" no policy"))
		return
	}
	p.line(bold.in("Selected by"), plain(" "+many(uint64(len(policies)), "policy", "policies")))
	problem := slices.ContainsFunc(policies, func(s api.SelectingPolicy) bool { return s.Problem != "" })
	head := []string{"KIND", "POLICY", "BECAUSE OF", "ISOLATES"}
	if problem {
		head = append(head, "PROBLEM")
	}
	g := newGrid(head...)
	for _, s := range policies {
		cells := []text{plain(s.Kind), bold.in(s.Ref.String()), plain(s.Selector), plain(directions(s.Ingress, s.Egress))}
		if problem {
			cells = append(cells, red.in(s.Problem))
		}
		g.row(cells...)
	}
	p.draw(g, "  ")
}

// drawDirection draws one direction's rules in the order in which a flow meets
// them, and what becomes of those that meet none.
func drawDirection(p *page, in api.Inspection, d ruleset.Direction, all bool) {
	name, isolates := "Ingress", in.Isolation.Ingress
	if d == ruleset.Egress {
		name, isolates = "Egress", in.Isolation.Egress
	}
	rest := plain("  what no rule decides passes")
	if isolates {
		rest = plain("  what no rule accepts is dropped")
	}
	for _, v := range in.Dropped {
		if v.Direction == d.String() && v.Packets > 0 {
			rest = append(rest, append(plain(": "), yellow.in(dropped(v))...)...)
		}
	}
	p.line(bold.in(name), rest)
	g := newGrid("RULE", "VERDICT", "PORTS", "PEERS", ">PACKETS", ">BYTES")
	for _, r := range in.Rules {
		if r.Direction == d {
			g.row(ruleName(r), verdict(r.Verdict), plain(portList(r.Ports, all)), plain(peers(r, all)), plain(count(r.Packets)), plain(octets(r.Bytes)))
		}
	}
	if len(g.rows) > 0 {
		p.draw(g, "  ")
	}
}

func dropped(v api.DropView) string {
	return fmt.Sprintf("%s, %s", many(v.Packets, "packet", "packets"), octets(v.Bytes))
}

// ruleName is policy[index], with the tier where that says something. Rules of
// the service and node tiers come from no policy.
func ruleName(r api.RuleView) text {
	name := bold.in(fmt.Sprintf("%s[%d]", r.Policy, r.Index))
	switch r.Tier {
	case ruleset.TierPolicy, "":
		return name
	case ruleset.TierNode:
		return plain("its own node")
	case ruleset.TierService:
		return plain("service addresses")
	}
	return append(dim.in(r.Tier+" "), name...)
}

func verdict(a ruleset.Action) text {
	switch a {
	case ruleset.Accept:
		return green.in(a.String())
	case ruleset.Pass:
		return yellow.in(a.String())
	}
	return red.in(a.String())
}

// few is how many ports or peers a cell shows before it counts the rest.
const few = 3

// portList is "TCP 80,443 UDP 53": the ports of each protocol together.
func portList(ps []ruleset.Ports, all bool) string {
	if len(ps) == 0 {
		return "none"
	}
	var parts []string
	var last ruleset.Proto
	for i, q := range ps {
		if i >= few && !all {
			return strings.Join(parts, " ") + fmt.Sprintf(" +%d", len(ps)-i)
		}
		s := q.String()
		number, hasPort := strings.CutPrefix(s, q.Proto.String()+" ")
		if hasPort && i > 0 && q.Proto == last {
			parts[len(parts)-1] += "," + number
		} else {
			parts = append(parts, s)
		}
		last = q.Proto
	}
	return strings.Join(parts, " ")
}

// peers is who a rule is for: the addresses themselves as long as they are few.
func peers(r api.RuleView, all bool) string {
	switch {
	case r.Anyone:
		return "anyone"
	case r.Peers == 0:
		return "nobody"
	}
	shown := len(r.Sample)
	if !all {
		shown = min(shown, few)
		if r.Peers > few {
			return many(uint64(r.Peers), "address", "addresses")
		}
	}
	if shown == 0 {
		return many(uint64(r.Peers), "address", "addresses")
	}
	parts := make([]string, shown)
	for i, s := range r.Sample[:shown] {
		parts[i] = prefix(s)
	}
	s := strings.Join(parts, ",")
	if rest := r.Peers - shown; rest > 0 {
		s += fmt.Sprintf(" +%d", rest)
	}
	return s
}

func prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
