// Package e2e judges podwall on real clusters.
//
// A top-level test is a cluster, the tests directly below it are suites, and
// those below a suite are its cases:
//
//	go test -v -timeout 60m -run 'TestIPv4/services' ./e2e
//
// With -short it runs what fits into CI. Command table makes a table of it all.
//
// A new suite is a file with a function of a test and a cluster, and a line in
// clusters_test.go. A scene gives it a namespace, pods and questions between them
// (reaches, denied); a vigil is a scene whose pods ask all the time by themselves
// (closed, undisturbed). What a suite does to a cluster it puts right before it
// ends: the next one gets the same cluster.
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
	if os.Getenv(abandon) != "" {
		return abandoned()
	}
	return m.Run()
}

// A suite is a function that looks at one thing of a cluster.
type suite struct {
	name string
	run  func(*testing.T, *cluster.Cluster)
	long bool // not in CI
}

// judge makes a cluster, runs the suites on it one after another, and takes it
// down again. If any failed it leaves the logs and says where.
func judge(t *testing.T, config cluster.Config, suites ...suite) {
	c, err := cluster.Up(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v; logs in %s", c, c.Logs())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs are kept in %s", c.Logs())
		} else if err := os.RemoveAll(c.Logs()); err != nil {
			t.Error(err)
		}
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range suites {
		if !s.long || !testing.Short() {
			t.Run(s.name, func(t *testing.T) {
				t.Cleanup(func() { keepLogs(t, c, s.name) })
				s.run(t, c)
			})
		}
	}
}

// keepLogs keeps the pods' logs if the suite failed, before the next one's pods
// take their place.
func keepLogs(t *testing.T, c *cluster.Cluster, suite string) {
	if !t.Failed() {
		return
	}
	if err := c.KeepLogs(context.Background(), suite); err != nil {
		t.Error(err)
	}
}
