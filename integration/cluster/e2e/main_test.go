// Package e2e judges podwall on real clusters.
//
// Each top-level test is a suite. It asks for the cluster that it wants with up;
// tests that want the same one, and follow one another, share it.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	tools, err := cluster.FindTools()
	if err == nil {
		err = tools.Prepare(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func TestUp(t *testing.T) {
	c, err := cluster.Up(t.Context(), cluster.Config{Podwall: cluster.Absent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	t.Log(c.Kubectl(t.Context(), "get", "nodes", "-o", "wide"))
}
