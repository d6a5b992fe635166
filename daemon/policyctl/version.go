package main

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/podwall/podwall/internal/api"
	build "github.com/podwall/podwall/internal/version"
)

// A versions is what `policyctl version` prints.
type versions struct {
	Policyctl string `json:"policyctl"`
	Go        string `json:"go"`
	Platform  string `json:"platform"`
	Podwalld  string `json:"podwalld,omitempty"` // empty if it can't be reached
}

// version builds `policyctl version`.
func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of policyctl and of the daemon",
		Args:  cobra.NoArgs,
		RunE: does(func(ctx context.Context, _ []string) error {
			v := versions{Policyctl: build.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			var st api.Status
			ctx, cancel := context.WithTimeout(ctx, completionPatience)
			defer cancel()
			if err := c.ask(ctx, api.VerbStatus, nil, &st); err == nil {
				v.Podwalld = st.Version
			}
			return c.show(v, func(p *page) {
				p.line(plain("policyctl  "), plain(v.Policyctl), dim.in("  "+v.Go+" "+v.Platform))
				p.line(plain("podwalld   "), plain(orElse(v.Podwalld, "not reachable")))
			})
		}),
	}
}
