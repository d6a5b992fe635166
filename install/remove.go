package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/install/chain"
	"github.com/podwall/podwall/install/change"
	"github.com/podwall/podwall/install/sandbox"
)

// askAgain is how often remove looks whether sandboxes are gone.
const askAgain = 500 * time.Millisecond

func (n *node) removeCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Take the plugin out of the networks, and the binaries away when nothing needs them",
		Long: `remove first takes the plugin out of every network, so that new pods start
without it. Pods that are there keep their firewall, and a runtime may call the
plugin when it removes them: its binary stays until the last of them is gone.
Until then remove exits 3; it may be called again, or told to --wait.

Stop "podwall-install run" first: it would put everything back.`,
	}
	n.dryRunFlag(cmd)
	n.entryCommand(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the sandboxes that need the plugin")
	cmd.RunE = does(func(ctx context.Context) error { return n.remove(ctx, wait) })
	return cmd
}

// remove does what the command's help says.
func (n *node) remove(ctx context.Context, wait time.Duration) error {
	if err := n.unchain(ctx); err != nil {
		return err
	}
	binaries, err := n.placed()
	if err != nil {
		return err
	}
	if n.dryRun {
		n.show(binaries)
	}
	needed, err := n.needed(ctx, wait)
	switch {
	case err != nil:
		return err
	case len(needed) > 0:
		fmt.Fprintf(n.stderr, "podwall-install: %s stays until these sandboxes are gone:\n", n.binaries()[0].Path)
		for _, s := range needed {
			fmt.Fprintf(n.stderr, "  %v\n", s)
		}
		return &failure{status: exitNeeded}
	case n.dryRun:
		return nil
	}
	if err := n.unchained(); err != nil {
		return err
	}
	if err := n.apply(ctx, binaries); err != nil {
		return err
	}
	for _, c := range binaries {
		fmt.Fprintf(n.stdout, "removed %s\n", c.Path)
	}
	return nil
}

// unchain takes the plugin out of the networks.
func (n *node) unchain(ctx context.Context) error {
	for try := range tries {
		files, err := n.dir.Look()
		if err != nil {
			return err
		}
		var changes []change.Change
		for _, f := range files {
			changes = append(changes, f.Remove...)
		}
		if n.dryRun {
			n.show(changes)
			return nil
		}
		if err = n.apply(ctx, changes); errors.Is(err, change.ErrOutdated) && try < tries-1 {
			continue
		}
		if err != nil {
			return err
		}
		for _, f := range files {
			if len(f.Remove) > 0 {
				fmt.Fprintf(n.stdout, "took podwall out of network %s (%s)\n", f.Network, f.Path)
			}
		}
		return nil
	}
	return nil
}

// unchained returns an error if podwall is in a network.
func (n *node) unchained() error {
	files, err := n.dir.Look()
	if err != nil {
		return err
	}
	for _, f := range files {
		switch {
		case len(f.Remove) > 0:
			return fmt.Errorf("%s: podwall is chained again, so its binary stays: stop \"podwall-install run\" before remove", f.Path)
		case slices.Contains(f.Plugins, chain.Plugin):
			return fmt.Errorf("%s: %s, so its binary stays: mend or remove the file, and remove again", f.Path, f.Problem)
		}
	}
	return nil
}

// placed returns the changes that remove the binaries: the plugin, and in
// --bin-dir all that install puts there.
func (n *node) placed() ([]change.Change, error) {
	var out []change.Change
	for _, b := range n.places() {
		there, err := os.ReadFile(b)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("read binary: %w", err)
		default:
			out = append(out, change.Change{Path: b, Before: there})
		}
	}
	return out, nil
}

// needed returns the sandboxes that still need the plugin when wait is over.
func (n *node) needed(ctx context.Context, wait time.Duration) ([]sandbox.Sandbox, error) {
	end := time.Now().Add(wait)
	for told := -1; ; {
		needed, err := sandbox.Find(n.cache, n.root)
		if err != nil || len(needed) == 0 || n.dryRun || time.Now().After(end) {
			return needed, err
		}
		if len(needed) != told {
			told = len(needed)
			fmt.Fprintf(n.stdout, "waiting for %d sandboxes, among them %v\n", told, needed[0])
		}
		select {
		case <-ctx.Done():
			return needed, nil
		case <-time.After(min(askAgain, time.Until(end)+time.Millisecond)): // some may be gone
		}
	}
}
