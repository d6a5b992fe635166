package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
)

// status builds `policyctl status`.
func (c *cli) status() *cobra.Command {
	var wait time.Duration
	var alive bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the daemon serves, and what it could not honour",
		Long: `status shows the daemon of this node: where its policies come from and how
fresh they are, how many pods have their rules, and what could not be honoured.

It exits 0 once the daemon serves ADD and its source has synced, else 1.`,
		Example: "  policyctl status --wait 30s && echo ready",
		Args:    cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error {
			ctx, cancel := context.WithTimeout(ctx, wait+patience)
			defer cancel()
			st, err := c.await(ctx, wait, func(ctx context.Context) (st api.Status, err error) {
				return st, c.ask(ctx, api.VerbStatus, nil, &st)
			})
			if err != nil {
				return err
			}
			if err := c.show(st, func(p *page) { c.drawStatus(p, st) }); err != nil {
				return err
			}
			if !st.Ready && !alive {
				return fmt.Errorf("podwalld is not ready: %s", orElse(st.Reason, "it did not say why"))
			}
			return nil
		}),
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the daemon to be ready")
	completeFlag(cmd, "wait", cobra.NoFileCompletions)
	cmd.Flags().BoolVar(&alive, "alive", false, "exit 0 as soon as the daemon answers, ready or not")
	return cmd
}

// pace is how often await asks.
const pace = 100 * time.Millisecond

// await asks until the daemon is ready or wait has passed, and returns the last
// answer.
func (c *cli) await(ctx context.Context, wait time.Duration, ask func(context.Context) (api.Status, error)) (api.Status, error) {
	deadline := time.Now().Add(wait)
	for {
		st, err := ask(ctx)
		if (err == nil && st.Ready) || (err != nil && !unreachable(err)) || time.Until(deadline) < pace {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("wait for podwalld: %w", context.Cause(ctx))
		case <-time.After(pace):
		}
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (c *cli) drawStatus(p *page, st api.Status) {
	now := c.now()
	ready := green.in("✓ ready")
	if !st.Ready {
		ready = red.in("✗ not ready: " + orElse(st.Reason, "no reason given"))
	}
	p.line(bold.in("podwalld"), plain(" "+st.Version+" on "), bold.in(st.Node), plain("  "), ready)
	p.gap()
	p.facts(
		fact{"started", join(" · ", plain(ago(st.StartedAt, now)), dim.in(stamp(st.StartedAt)))},
		fact{"source", drawSource(st.Source, now)},
		fact{"", drawFreshness(st.Source, now)},
		fact{"objects", drawObjects(st.Source.Objects)},
		fact{"attachments", join(" · ", drawStates(st.Attachments), drawAudited(st.Audited))},
		fact{"store", join(" · ", plain(st.Store.Path), plain(octets(uint64(max(0, st.Store.Bytes)))))},
		fact{"", noteOf(st.Store.Note)},
		fact{"problems", drawCount(len(st.Problems))},
	)
	for _, pr := range st.Problems {
		p.line(plain("    "), red.in("✗ "), plain(pr.String()))
	}
}

func noteOf(note string) text {
	if note == "" {
		return nil
	}
	return yellow.in(note)
}

func drawCount(problems int) text {
	if problems == 0 {
		return green.in("none")
	}
	return red.in(count(uint64(problems)))
}

func drawSource(s api.SourceStatus, now time.Time) text {
	synced := yellow.in("not synced")
	if s.Synced {
		synced = green.in("synced")
		if when := ago(s.SyncedAt, now); when != "" {
			synced = append(synced, span{text: " " + when})
		}
	}
	return join(" · ", plain(s.Kind+" "+s.Location), synced)
}

// worrying is a lag that a watch which is made anew does not have.
const worrying = 5 * time.Second

// drawFreshness says how fresh a source is that is watched.
func drawFreshness(s api.SourceStatus, now time.Time) text {
	var parts []text
	if when := ago(s.HeardAt, now); when != "" {
		parts = append(parts, plain("heard "+when))
	}
	if s.Lag > worrying {
		parts = append(parts, red.in("behind by "+span2(s.Lag)))
	}
	if !s.KnownAt.IsZero() {
		parts = append(parts, yellow.in("as it was known at "+stamp(s.KnownAt)))
	}
	return join(" · ", parts...)
}

// drawObjects lists what the source holds, by kind.
func drawObjects(objects map[string]int) text {
	var parts []text
	for _, kind := range slices.Sorted(maps.Keys(objects)) {
		parts = append(parts, plainf("%s %s", count(uint64(objects[kind])), kind))
	}
	return join(" · ", parts...)
}

// drawAudited says how many attachments' policies are not enforced.
func drawAudited(n int) text {
	if n == 0 {
		return nil
	}
	return yellow.in(count(uint64(n)) + " audited: their NetworkPolicies are not enforced")
}

// drawStates lists the attachments by state, from good to bad.
func drawStates(by map[api.State]int) text {
	var parts []text
	order := []api.State{api.StateEnforced, api.StatePending, api.StateError, api.StateDrifted, api.StateUnprotected}
	for _, s := range order {
		if by[s] > 0 {
			parts = append(parts, append(plain(count(uint64(by[s]))+" "), state(s)...))
		}
	}
	if len(parts) == 0 {
		return plain("none")
	}
	return join(" · ", parts...)
}

// stamp is t for people who compare it with a log.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05 MST")
}

// directions says in which directions a policy isolates.
func directions(ingress, egress bool) string {
	var ds []string
	if ingress {
		ds = append(ds, "ingress")
	}
	if egress {
		ds = append(ds, "egress")
	}
	return strings.Join(ds, ",")
}
