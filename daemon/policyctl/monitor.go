package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// monitor builds `policyctl monitor`.
func (c *cli) monitor() *cobra.Command {
	var w wanted
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Show what is dropped, as it happens, and why",
		Long: `monitor shows the packets that the pods' rules drop, with the rule or the policies
behind each; what policies would drop in pods that are audited; and new flows that
are accepted, where the daemon's configuration or an annotation asks for them.

It goes on until it is interrupted, also when the daemon is restarted meanwhile.
-o json writes one object a line.`,
		Example: `  policyctl monitor --namespace shop --verdict drop
  policyctl monitor --since 10m --no-follow --pod shop/api --port 5432
  policyctl monitor -o json | jq -r .reason.text`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error { return c.runMonitor(ctx, w) }),
	}
	f := cmd.Flags()
	f.StringVar(&w.Pod, "pod", "", "only of this `NS/POD`, or of a container by the beginning of its id")
	f.StringVarP(&w.Namespace, "namespace", "n", "", "only of pods in this `NAMESPACE`")
	f.StringSliceVar(&w.directions, "direction", nil, "only flows that the far end opens (ingress), or the pod (egress)")
	f.StringSliceVar(&w.verdicts, "verdict", nil, "only of these, separated by commas: drop, audit, accept")
	f.StringVar(&w.Peer, "peer", "", "only with this `END`: NS/POD, svc/NS/NAME, node/NAME, an address or a block of them")
	f.Uint16Var(&w.Port, "port", 0, "only flows opened to this `PORT`")
	f.StringVar(&w.since, "since", "", "also what was before: a `TIME` ago as in 10m, or a moment as RFC 3339 has it")
	f.BoolVar(&w.stay, "no-follow", false, "end with what was before")
	completeFlag(cmd, "pod", c.podNames(podName))
	completeFlag(cmd, "namespace", c.podNames(namespaceOf))
	suggestFlag(cmd, "direction", "ingress", "egress")
	suggestFlag(cmd, "verdict", "drop", "audit", "accept")
	for _, flag := range []string{"peer", "port", "since"} {
		completeFlag(cmd, flag, cobra.NoFileCompletions)
	}
	return cmd
}

// A wanted is what the flags of monitor say.
type wanted struct {
	api.Filter
	directions, verdicts []string
	since                string
	stay                 bool
}

// request is w for the daemon.
func (w wanted) request(now time.Time) (api.MonitorRequest, error) {
	req := api.MonitorRequest{Filter: w.Filter, Follow: !w.stay}
	for _, text := range w.directions {
		var d ruleset.Direction
		if err := d.UnmarshalText([]byte(strings.ToLower(text))); err != nil {
			return req, usagef("--direction: %w", err)
		}
		req.Filter.Directions = append(req.Filter.Directions, d)
	}
	for _, text := range w.verdicts {
		var f ruleset.Fate
		if err := f.UnmarshalText([]byte(capital(text))); err != nil {
			return req, usagef("--verdict: %w", err)
		}
		req.Filter.Verdicts = append(req.Filter.Verdicts, f)
	}
	if _, err := req.Filter.Compile(); err != nil {
		return req, usagef("--peer: %w", err)
	}
	var err error
	if req.Since, err = sinceWhen(w.since, now); err != nil {
		return req, err
	}
	if w.stay && w.since == "" {
		req.Since = time.Unix(0, 0) // all there is
	}
	return req, nil
}

// capital is text with a capital letter, as verdicts have it.
func capital(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + strings.ToLower(text[1:])
}

// sinceWhen reads a time ago, or a moment; nothing is the zero Time.
func sinceWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("--since %q: want a time ago, as in 90s, 10m or 24h, or a moment, as in 2026-11-20T12:00:00Z", text)
	}
	return t, nil
}

func (c *cli) runMonitor(ctx context.Context, w wanted) error {
	req, err := w.request(c.now())
	if err != nil {
		return err
	}
	begun := false
	for {
		err := api.Client{Socket: c.socket}.Monitor(ctx, req, func(news api.Events) error {
			begun = true
			if n := len(news.Events); n > 0 {
				req.Since = news.Events[n-1].Time.Add(1)
			}
			return c.tell(news)
		})
		switch {
		case errors.Is(err, context.Canceled):
			return nil // interrupted
		case !req.Follow, !begun, err != nil && !unreachable(err):
			return err
		}
		// The daemon has stopped. When it is there again it knows what was before.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// tell prints news, each on a line.
func (c *cli) tell(news api.Events) error {
	if c.output == jsonText || c.output == yamlText {
		return c.tellPrograms(news)
	}
	p := &page{color: c.terminal && !c.noColor && !c.plain}
	for _, e := range news.Events {
		p.line(c.drawEvent(e))
	}
	for _, h := range news.Hidden {
		if h.Drops > 0 {
			p.line(yellow.in(fmt.Sprintf("… %s dropped by %s/%s %s beyond the limit of events", many(h.Drops, "packet", "packets"), h.Namespace, h.Pod, h.Interface)))
		}
		if h.Accepts > 0 {
			p.line(yellow.in(fmt.Sprintf("… %s accepted by %s/%s %s beyond the limit of events", many(h.Accepts, "flow", "flows"), h.Namespace, h.Pod, h.Interface)))
		}
	}
	if news.Lost > 0 {
		p.line(red.in(fmt.Sprintf("… %s lost between kernel and podwalld", many(news.Lost, "event", "events"))))
	}
	if news.Skipped > 0 {
		p.line(red.in(fmt.Sprintf("… %s skipped: they came faster than they were read", many(news.Skipped, "event", "events"))))
	}
	_, err := fmt.Fprint(c.stdout, p.b.String())
	return err
}

// tellPrograms prints one object a line: events as they are, all else below a
// name of its own.
func (c *cli) tellPrograms(news api.Events) error {
	var objects []any
	for _, e := range news.Events {
		objects = append(objects, e)
	}
	for _, h := range news.Hidden {
		objects = append(objects, map[string]any{"hidden": h})
	}
	if news.Lost+news.Skipped > 0 {
		objects = append(objects, map[string]any{"lost": news.Lost, "skipped": news.Skipped})
	}
	for _, o := range objects {
		if c.output == yamlText {
			if _, err := fmt.Fprintln(c.stdout, "---"); err != nil {
				return err
			}
			if err := printYAML(c.stdout, o); err != nil {
				return err
			}
			continue
		}
		e := json.NewEncoder(c.stdout)
		e.SetEscapeHTML(false)
		if err := e.Encode(o); err != nil {
			return err
		}
	}
	return nil
}

// drawEvent is e in one line: when, what, who to whom, with what, whose rules
// decided, and why.
func (c *cli) drawEvent(e api.Event) text {
	isWide := c.output == wide
	when := e.Time.UTC().Format("15:04:05.000")
	if age := c.now().Sub(e.Time); age > 12*time.Hour {
		when = e.Time.UTC().Format("2006-01-02 15:04:05.000")
	}
	arrow := " → "
	if e.Reply {
		arrow = " ← " // the packet went back
	}
	what := []string{e.Protocol}
	if e.TCPFlags != "" {
		what = append(what, e.TCPFlags)
	}
	if e.ICMP != nil {
		what = append(what, fmt.Sprintf("type %d code %d", e.ICMP.Type, e.ICMP.Code))
	}
	if isWide {
		what = append(what, fmt.Sprintf("%d B", e.Length))
	}
	whose := fmt.Sprintf("%s of %s", e.Direction, e.PodName())
	if isWide || e.Interface != "eth0" {
		whose += " " + e.Interface
	}
	return slices.Concat(dim.in(when), plain("  "), fate(e.Verdict), plain("  "),
		plain(endName(e.From, isWide, false)), dim.in(arrow), bold.in(endName(e.To, isWide, true)), plain("  "),
		plain(strings.Join(what, " ")), plain("  "), cyan.in(whose), plain("  "), plain(e.Reason.Text))
}

// fate is a verdict in its colour, as wide as the longest.
func fate(f ruleset.Fate) text {
	colour := map[ruleset.Fate]style{ruleset.Dropped: red, ruleset.Audited: yellow, ruleset.Accepted: green}[f]
	return colour.in(fmt.Sprintf("%-6s", f))
}

// endName is an end's name, or its address if nobody is known to have it; both
// if the line may be wide. A port stands where it says something.
func endName(e api.End, wide, port bool) string {
	address := ""
	if e.Address.IsValid() {
		address = e.Address.String()
	}
	name := e.Name()
	switch {
	case name == "":
		name = orElse(address, "?")
		if e.Address.Is6() && port && e.Port != 0 {
			name = "[" + name + "]"
		}
	case wide && address != "":
		name += "(" + address + ")"
	}
	if e.Port != 0 && (port || wide) {
		name += fmt.Sprintf(":%d", e.Port)
	}
	return name
}
