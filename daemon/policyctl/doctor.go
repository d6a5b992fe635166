package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/daemon/doctor"
	"github.com/podwall/podwall/daemon/doctor/bundle"
	"github.com/podwall/podwall/internal/api"
	build "github.com/podwall/podwall/internal/version"
)

// doctor builds `policyctl doctor`.
func (c *cli) doctor() *cobra.Command {
	node := c.node
	var file, config string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look what keeps podwall from working here, and say what to do",
		Long: `doctor examines this node: what its kernel can do, which plugins the runtime really
runs, whether the daemon serves and what it knows, and whether every pod has the
rules that policy wants. It changes nothing, and works with the daemon away; it
sees all there is to see as root only.

The exit status is 1 if a check failed. With --bundle it also writes a file for a
bug report: what the daemon says, each pod's firewall, configuration and the end
of the log, without keys, tokens and passwords. Names, labels and addresses of
pods are in it.`,
		Example: `  policyctl doctor
  policyctl doctor -o json | jq '.[] | select(.verdict == "failed")'
  policyctl doctor --bundle podwall.tar.gz`,
		Args: cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error {
			node.Socket, node.Version, node.Now = c.socket, build.Version, c.now
			node.Ask = func(ctx context.Context, verb api.Verb, answer any) error { return c.ask(ctx, verb, nil, answer) }
			return c.runDoctor(ctx, node, file, config)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&file, "bundle", "", "write a bundle for a bug report to `FILE`.tar.gz")
	f.StringVar(&config, "config", "/etc/podwall/podwalld.yaml", "podwalld's configuration `FILE`, for the bundle")
	f.StringVar(&node.CNIBin, "cni-bin-dir", "/opt/cni/bin", "`DIR` of the runtime's plugins")
	f.StringVar(&node.CNIConf, "cni-conf-dir", "", "`DIR` of the runtime's networks (default what the runtime's configuration says)")
	f.StringVar(&node.CNICache, "cni-cache-dir", "/var/lib/cni", "`DIR` of libcni's cache")
	f.StringVar(&node.Root, "host-root", node.Root, "`DIR` where the node's files are, in a container")
	return cmd
}

func (c *cli) runDoctor(ctx context.Context, node doctor.Node, file, config string) error {
	results := node.Examine(ctx)
	if file != "" {
		if err := c.bundle(ctx, node, results, file, config); err != nil {
			return err
		}
	}
	if err := c.show(results, func(p *page) { drawResults(p, results) }); err != nil {
		return err
	}
	if n := doctor.Failures(results); n > 0 {
		return fmt.Errorf("doctor: %s", many(uint64(n), "check failed", "checks failed"))
	}
	return nil
}

// bundle writes a bundle to file, which only root can read.
func (c *cli) bundle(ctx context.Context, node doctor.Node, results []doctor.Result, file, config string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	files := map[string]string{"config/podwalld.yaml": config, "os-release": "/etc/os-release"}
	for name, path := range node.Networks() {
		files["config/"+name] = path
	}
	err = bundle.Write(ctx, f, bundle.Sources{
		Root: node.Root, Version: build.Version, Now: c.now(), Results: results, Files: files, Run: node.Run,
		Ask: c.ask,
	})
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stderr, "policyctl: %s written; look through it before you give it to others\n", file)
	return nil
}

// drawResults draws a line for each check, with what to do below those that are
// not well:
//
//	✓ kernel   Linux 6.18.5 has nftables and connection tracking
//	✗ socket   /run/podwall/podwalld.sock does not exist: podwalld does not run
//	           → systemctl start podwalld
func drawResults(p *page, results []doctor.Result) {
	wide := 0
	for _, r := range results {
		wide = max(wide, columns(clean(r.Check)))
	}
	for _, r := range results {
		name := r.Check + strings.Repeat(" ", wide-columns(clean(r.Check)))
		p.line(signOf(r.Verdict), bold.in(name), plain("   "+r.Found))
		if r.Advice != "" {
			p.line(plain(strings.Repeat(" ", wide+5)), cyan.in("→ "+r.Advice))
		}
	}
}

func signOf(v doctor.Verdict) text {
	switch v {
	case doctor.OK:
		return green.in("✓ ")
	case doctor.Warning:
		return yellow.in("! ")
	case doctor.Failed:
		return red.in("✗ ")
	}
	return dim.in("? ")
}
