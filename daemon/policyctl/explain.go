package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/ruleset"
)

// explain builds `policyctl explain`.
func (c *cli) explain() *cobra.Command {
	var (
		req      api.ExplainRequest
		exitCode bool
	)
	proto := protocol(ruleset.TCP)
	cmd := &cobra.Command{
		Use:   "explain --from END --to END --port PORT",
		Short: "Say whether a connection passes, and which policy says so",
		Long: `explain follows a connection from one end to the other: what the firewall of the
pod that opens it says, then that of the pod it goes to, each with the rule that
decides or the policies that isolate.

An END is NAMESPACE/POD, an address, or svc/NAMESPACE/SERVICE.`,
		Example: `  policyctl explain --from shop/web --to shop/api --port 80
  policyctl explain --from shop/web --to svc/kube-system/dns --port 53 --protocol udp
  policyctl explain --from shop/web --to 10.0.0.9 --port 5432 --exit-code`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error {
			req.Protocol = ruleset.Proto(proto)
			return c.runExplain(ctx, req, exitCode)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&req.From, "from", "", "`END` that opens the connection")
	f.StringVar(&req.To, "to", "", "`END` that it is opened to")
	f.Var((*port)(&req.Port), "port", "destination port, as the one who opens sees it")
	f.Var(&proto, "protocol", "tcp, udp or sctp")
	f.BoolVar(&exitCode, "exit-code", false, "exit 1 if the verdict is Deny")
	require(cmd, "from", "to", "port")
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

func (c *cli) runExplain(ctx context.Context, req api.ExplainRequest, exitCode bool) error {
	if _, _, err := explain.Parse(req); err != nil {
		return &usageError{err}
	}
	var ex api.Explanation
	if err := c.ask(ctx, api.VerbExplain, req, &ex); err != nil {
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

// drawExplanation draws the flow from top to bottom, with what each end says
// beside it:
//
//	● shop/web
//	│   ✓ egress    no policy selects shop/web for egress
//	▼ TCP 80
//	● shop/api
//	    ✗ ingress   isolated by shop/api; no rule accepts TCP 80 from shop/web
//
//	✗ Deny
func drawExplanation(p *page, req api.ExplainRequest, ex api.Explanation) {
	p.line(cyan.in("● "), bold.in(req.From))
	p.line(dim.in("│"), opinion("egress", ex.Egress))
	p.line(dim.in("▼ "), plainf("%s %d", req.Protocol, req.Port))
	p.line(cyan.in("● "), bold.in(req.To))
	p.line(plain(" "), opinion("ingress", ex.Ingress))
	p.gap()
	p.line(mark(ex.Verdict), good(ex.Verdict).in(ex.Verdict))
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
