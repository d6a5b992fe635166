package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/manifest"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/rehearse"
	"github.com/podwall/podwall/internal/ruleset"
)

// A rehearsal is what rehearse's flags say.
type rehearsal struct {
	path, flows, since string
	gone               []string
	exitCode           bool
}

// rehearse builds `policyctl rehearse`.
func (c *cli) rehearse() *cobra.Command {
	var opts rehearsal
	cmd := &cobra.Command{
		Use:   "rehearse [-f MANIFESTS] [--delete KIND/NAMESPACE/NAME]",
		Short: "Say what new policies would do to the flows that were seen",
		Long: `rehearse takes the cluster as podwalld knows it and the flows that it has observed on
this node, puts manifests into a copy of it, and says which of these flows would be
denied or allowed then, by which rule, and which of the node's pods would become
isolated or would not be any longer. Nothing is applied.

Flows that are dropped are always observed; those that are accepted where podwalld's
configuration says so (events: [drops, accepts]) or an annotation
(podwall.io/observe: "true"). With --flows the daemon is not asked: FILE is what
"policyctl get flows -o json" has written.

A policy that can't be honoured is rehearsed as podwalld would treat it: it isolates
what it selects and admits nobody. The exit status is 1 then, too.`,
		Example: `  policyctl rehearse -f new-policy.yaml
  policyctl rehearse --delete networkpolicy/shop/api --since 24h
  policyctl get flows -o json >flows.json && policyctl rehearse --flows flows.json -f policies --exit-code`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error { return c.runRehearse(ctx, opts) }),
	}
	f := cmd.Flags()
	f.StringVarP(&opts.path, "file", "f", "", "`MANIFESTS`: a file, a directory, or - for stdin")
	f.StringSliceVar(&opts.gone, "delete", nil, "leave this policy out, `KIND/NAMESPACE/NAME`; may be repeated")
	f.StringVar(&opts.flows, "flows", "", "take flows and cluster from this `FILE`")
	f.StringVar(&opts.since, "since", "", "only flows seen since a `TIME` ago as in 24h, or a moment as RFC 3339 has it")
	f.BoolVar(&opts.exitCode, "exit-code", false, "exit 1 if a flow that passed would be denied")
	completeFlag(cmd, "since", cobra.NoFileCompletions)
	completeFlag(cmd, "delete", c.policyNames)
	return cmd
}

// policyNames completes with the policies that the daemon knows.
func (c *cli) policyNames(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), completionPatience)
	defer cancel()
	var policies []api.PolicySummary
	var names []string
	if err := c.ask(ctx, api.VerbPolicies, nil, &policies); err == nil {
		for _, p := range policies {
			names = append(names, strings.ToLower(p.Kind)+"/"+p.Ref.String())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) runRehearse(ctx context.Context, opts rehearsal) error {
	if opts.path == "" && len(opts.gone) == 0 {
		return usagef("rehearse what? name manifests with -f, or a policy with --delete")
	}
	since, err := sinceWhen(opts.since, c.now())
	if err != nil {
		return err
	}
	world, err := c.load(opts.path)
	if err != nil {
		return err
	}
	change := policy.Change{Set: world.Snapshot}
	if change.Gone.Policies, err = policyRefs(opts.gone); err != nil {
		return err
	}
	e, err := c.evidence(ctx, opts.flows, api.EvidenceRequest{Since: since, Policies: policiesOf(change)})
	if err != nil {
		return err
	}
	r, err := rehearse.Of(e, change, world.Problems)
	if err != nil {
		return err
	}
	if err := c.show(r, func(p *page) { c.drawRehearsal(p, r) }); err != nil {
		return err
	}
	if broken := brokenIn(world); broken > 0 {
		return fmt.Errorf("rehearse: %s that can't be honoured: podwalld would isolate what it selects and admit nobody", many(uint64(broken), "policy", "policies"))
	}
	if opts.exitCode && r.Denied > 0 {
		return errDenied
	}
	return nil
}

// load reads manifests, and says on stderr what of them can't be honoured.
func (c *cli) load(path string) (world source.World, err error) {
	switch path {
	case "":
		return world, nil
	case "-":
		data, readErr := io.ReadAll(c.stdin)
		if readErr != nil {
			return world, fmt.Errorf("read manifests: %w", readErr)
		}
		world, err = manifest.Parse("stdin", data)
	default:
		world, err = manifest.Load(path)
	}
	for _, p := range world.Problems {
		fmt.Fprintf(c.stderr, "policyctl: warning: %s\n", oneLine(p.String()))
	}
	return world, err
}

// brokenIn counts the policies that can't be honoured.
func brokenIn(w source.World) (n int) {
	for _, p := range w.Policies {
		if p.Broken != "" {
			n++
		}
	}
	return n
}

// policiesOf is the policies that change is about.
func policiesOf(change policy.Change) []ruleset.Ref {
	refs := append([]ruleset.Ref{}, change.Gone.Policies...)
	for _, p := range change.Set.Policies {
		refs = append(refs, p.Ref)
	}
	return refs
}

// policyRefs reads KIND/NAMESPACE/NAME.
func policyRefs(texts []string) ([]ruleset.Ref, error) {
	var refs []ruleset.Ref
	for _, s := range texts {
		parts := strings.Split(s, "/")
		if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
			return nil, usagef("--delete %q: want KIND/NAMESPACE/NAME, as in networkpolicy/shop/api", s)
		}
		switch strings.ToLower(parts[0]) {
		case "networkpolicy", "networkpolicies", "netpol":
			refs = append(refs, ruleset.Ref{Kind: "NetworkPolicy", Namespace: parts[1], Name: parts[2]})
		default:
			return nil, usagef("--delete %q: kind %s: want networkpolicy", s, parts[0])
		}
	}
	return refs, nil
}

// evidence is the daemon's or, with a file, that in it.
func (c *cli) evidence(ctx context.Context, file string, req api.EvidenceRequest) (e evidence.Evidence, err error) {
	if file == "" {
		return e, c.ask(ctx, api.VerbEvidence, req, &e)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return e, fmt.Errorf("read flows: %w", err)
	}
	if e, err = evidence.Parse(data); err != nil {
		return e, fmt.Errorf("%s: %w", file, err)
	}
	e.Since(req.Since)
	return e, nil
}

// howToObserve is what to do where accepted flows are not observed.
const howToObserve = `podwalld observes accepted flows where its configuration says events: [drops, accepts], or where podAnnotations lists observe and a pod or its namespace has the annotation podwall.io/observe: "true"`

var errNothingSeen = errors.New("nothing to go by")

// drawRehearsal draws each change with what decides now and then, the pods whose
// isolation changes, and a summary:
//
//	✗ shop/web → shop/db:5432 TCP   ingress of shop/db   12 accepted, last 3m ago
//	    now    no policy selects shop/db for ingress
//	    then   isolated by shop/db; no rule accepts TCP 5432 from shop/web
//
//	+ shop/db becomes isolated for ingress, by shop/db
//
//	NetworkPolicy shop/db would be added: 1 of 12 flows would be denied. Nothing was applied.
func (c *cli) drawRehearsal(p *page, r rehearse.Rehearsal) {
	for _, x := range r.Changes {
		p.line(changeMark(&x), bold.in(flowName(x.Flow)), dim.in("   "+x.Direction.String()+" of "+c.whose(x.Flow)), plain("   "), plain(c.seenText(x.Flow)))
		p.line(dim.in("    now    "), plain(x.Now.Reason))
		p.line(dim.in("    then   "), plain(x.Then.Reason))
	}
	if len(r.Isolated) > 0 {
		p.gap()
	}
	for _, i := range r.Isolated {
		mark, words := red.in("+ "), "becomes isolated for"
		if !i.Becomes {
			mark, words = green.in("- "), "is no longer isolated for"
		}
		p.line(mark, bold.in(i.Pod), plainf(" %s %s; by %s", words, i.Direction, refNames(i.By)))
	}
	if len(r.Unjudged) > 0 {
		p.gap()
	}
	for _, u := range r.Unjudged {
		p.line(yellow.in("? "), plainf("%s: can't be judged: %s", flowName(u.Flow), u.Reason))
	}
	p.gap()
	for _, e := range r.Edits {
		p.line(dim.in(string(e.Effect)), plain(strings.Repeat(" ", max(1, 11-len(e.Effect)))), plain(e.Object))
	}
	p.line(c.summary(r)...)
}

func (c *cli) summary(r rehearse.Rehearsal) []text {
	kinds := map[string]uint64{}
	for i := range r.Changes {
		kinds[fateThen(&r.Changes[i])]++
	}
	verdict := fmt.Sprintf("%d would be denied, %d allowed", kinds["denied"], kinds["allowed"])
	if n := kinds["audited"]; n > 0 {
		verdict += fmt.Sprintf(", %d would pass by audit alone", n)
	}
	style := green
	if r.Denied > 0 {
		style = red
	}
	began := ""
	if !r.Began.IsZero() {
		began = " since " + r.Began.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	lines := []text{plainf("of %s seen on node %s%s: ", many(uint64(r.Observed), "flow", "flows"), r.Node, began), style.in(verdict), plain("; nothing was applied")}
	return lines
}

// fateThen says in a word what becomes of a flow.
func fateThen(x *rehearse.Change) string {
	switch {
	case x.Then.Verdict != "Allow":
		return "denied"
	case x.Then.Audited:
		return "audited"
	}
	return "allowed"
}

func changeMark(x *rehearse.Change) text {
	switch fateThen(x) {
	case "denied":
		return red.in("✗ ")
	case "audited":
		return yellow.in("~ ")
	}
	return green.in("✓ ")
}

func flowName(f rehearse.Flow) string {
	name := fmt.Sprintf("%s → %s", rehearse.Name(&f.From), rehearse.Name(&f.To))
	if f.To.Port != 0 {
		at := rehearse.Name(&f.To)
		if f.To.Name() == "" && f.To.Address.Is6() {
			at = "[" + at + "]"
		}
		name = fmt.Sprintf("%s → %s:%d", rehearse.Name(&f.From), at, f.To.Port)
	}
	return name + " " + f.Protocol
}

// whose is the end whose rules are asked.
func (c *cli) whose(f rehearse.Flow) string {
	if f.Direction == ruleset.Ingress {
		return rehearse.Name(&f.To)
	}
	return rehearse.Name(&f.From)
}

// seenText is how often a flow was seen, and when last.
func (c *cli) seenText(f rehearse.Flow) string {
	var words []string
	for _, n := range []struct {
		count uint64
		what  string
	}{{f.Accepted, "accepted"}, {f.Audited, "audited"}, {f.Dropped, "dropped"}} {
		if n.count > 0 {
			words = append(words, count(n.count)+" "+n.what)
		}
	}
	return strings.Join(words, ", ") + ", last " + ago(f.Last, c.now())
}

func refNames(refs []ruleset.Ref) string {
	names := make([]string, len(refs))
	for i, r := range refs {
		names[i] = r.String()
	}
	return strings.Join(names, ", ")
}
