package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// explain builds `policyctl explain`.
func (c *cli) explain() *cobra.Command {
	var (
		req      api.ExplainRequest
		dir      string
		exitCode bool
	)
	proto := protocol(ruleset.TCP)
	cmd := &cobra.Command{
		Use:   "explain --from END --to END --port PORT",
		Short: "Say whether a connection passes, and which policy says so",
		Long: `explain follows a connection from one end to the other: what the firewall of the
pod that opens it says, then that of the pod it goes to, each with the rule that
decides or the policies that isolate. -o wide adds each step that led there.

An END is NAMESPACE/POD, an address, svc/NAMESPACE/SERVICE, or a Service's name in
DNS, such as api.shop.svc. With -f it is one of the manifests in DIR, and the
daemon is not asked.`,
		Example: `  policyctl explain --from shop/web --to shop/api --port 80
  policyctl explain --from shop/web --to svc/kube-system/dns --port 53 --protocol udp
  policyctl explain --from shop/web --to 10.0.0.9 --port 5432 --exit-code
  policyctl explain -f manifests --from shop/web --to api.shop.svc --port 80 -o wide`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error {
			req.Protocol = ruleset.Proto(proto)
			req.Steps = c.output != table
			return c.runExplain(ctx, req, dir, exitCode)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&req.From, "from", "", "`END` that opens the connection")
	f.StringVar(&req.To, "to", "", "`END` that it is opened to")
	f.Var((*port)(&req.Port), "port", "destination port, as the one who opens sees it")
	f.Var(&proto, "protocol", "tcp, udp or sctp")
	f.StringVarP(&dir, "file", "f", "", "`DIR` of manifests, to ask about instead of the daemon's pods")
	f.BoolVar(&exitCode, "exit-code", false, "exit 1 if the verdict is Deny")
	require(cmd, "from", "to", "port")
	if err := cmd.MarkFlagDirname("file"); err != nil {
		panic(err) // the flag was not defined: a mistake in this package
	}
	completeFlag(cmd, "from", c.podNames(podName))
	completeFlag(cmd, "to", c.podNames(podName))
	completeFlag(cmd, "port", cobra.NoFileCompletions)
	suggestFlag(cmd, "protocol", "tcp", "udp", "sctp")
	return cmd
}

// A protocol is the value of --protocol.
type protocol ruleset.Proto

// String is the protocol as people type it.
func (p *protocol) String() string { return strings.ToLower(ruleset.Proto(*p).String()) }

// Type is what help prints for the value.
func (p *protocol) Type() string { return "PROTOCOL" }

// Set takes tcp, udp or sctp, in letters of either case.
func (p *protocol) Set(s string) error {
	var q ruleset.Proto
	if err := q.UnmarshalText([]byte(strings.ToUpper(s))); err != nil || !q.HasPorts() {
		return fmt.Errorf("want tcp, udp or sctp")
	}
	*p = protocol(q)
	return nil
}

// A port is the value of --port.
type port uint16

// String is the number, or nothing where none was given.
func (p *port) String() string {
	if *p == 0 {
		return ""
	}
	return fmt.Sprint(uint16(*p))
}

// Type is what help prints for the value.
func (p *port) Type() string { return "PORT" }

// Set takes a number from 1 to 65535.
func (p *port) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("want 1 to 65535")
	}
	*p = port(n)
	return nil
}

func (c *cli) runExplain(ctx context.Context, req api.ExplainRequest, dir string, exitCode bool) error {
	if _, _, err := explain.Parse(req); err != nil {
		return &usageError{err}
	}
	ex, err := c.explanation(ctx, req, dir)
	if err != nil {
		return err
	}
	if err := c.show(ex, func(p *page) { drawExplanation(p, req, ex) }); err != nil {
		return err
	}
	if exitCode && ex.Verdict != explain.Allow {
		return errDenied
	}
	return nil
}

// explanation is the daemon's or, with a directory, that of its manifests.
func (c *cli) explanation(ctx context.Context, req api.ExplainRequest, dir string) (ex api.Explanation, err error) {
	if dir == "" {
		return ex, c.ask(ctx, api.VerbExplain, req, &ex)
	}
	world, err := c.rehearsal(dir)
	if err != nil {
		return ex, err
	}
	return explain.Explain(policy.New(world.Snapshot), req, explain.Options{})
}

// drawExplanation draws the flow from top to bottom, with what each end says
// beside it:
//
//	● shop/web   10.0.0.1
//	│   ✓ egress    no policy selects shop/web for egress
//	▼ TCP 80
//	● shop/api   10.0.0.2
//	    ✗ ingress   isolated by shop/api; no rule accepts TCP 80 from shop/web
//
//	✗ Deny
func drawExplanation(p *page, req api.ExplainRequest, ex api.Explanation) {
	p.line(cyan.in("● "), bold.in(req.From), found(req.From, ex.From))
	p.line(dim.in("│"), opinion("egress", ex.Egress))
	drawSteps(p, "│", ex.Egress.Steps)
	p.line(dim.in("▼ "), plainf("%s %d", req.Protocol, req.Port))
	p.line(cyan.in("● "), bold.in(req.To), found(req.To, ex.To))
	p.line(plain(" "), opinion("ingress", ex.Ingress))
	drawSteps(p, " ", ex.Ingress.Steps)
	p.gap()
	verdict := good(ex.Verdict).in(ex.Verdict)
	if ex.Verdict == explain.Allow && (ex.Egress.Audited || ex.Ingress.Audited) {
		verdict = append(verdict, yellow.in(", by audit")...)
	}
	p.line(mark(ex.Verdict), verdict)
}

// found is what an end turned out to be: its name, if it was asked for by another
// one, and its addresses.
func found(asked string, end api.Party) text {
	var words []string
	if end.Name != asked && end.Name != "" {
		words = append(words, end.Name)
	}
	for _, a := range end.Addresses {
		if a.String() != asked {
			words = append(words, a.String())
		}
	}
	if len(words) == 0 {
		return nil
	}
	return dim.in("   " + strings.Join(words, " "))
}

// drawSteps draws what was tried, tier by tier, and marks what decided.
func drawSteps(p *page, line string, steps []api.Step) {
	for _, s := range steps {
		mark := "  "
		if s.Decides {
			mark = "→ "
		}
		p.line(dim.in(line), plain("       "), cyan.in(mark), dim.in(fmt.Sprintf("%-8s  ", s.Tier)), plain(s.Text))
	}
}

func opinion(direction string, o api.Opinion) text {
	return append(append(plain("   "), mark(o.Verdict)...), plainf("%-7s   %s", direction, o.Reason)...)
}

func mark(verdict string) text {
	if verdict == explain.Allow {
		return green.in("✓ ")
	}
	return red.in("✗ ")
}

func good(verdict string) style {
	if verdict == explain.Allow {
		return green
	}
	return red
}
