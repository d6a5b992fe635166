package e2e

import (
	"flag"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// installed is how podwall comes to the clusters.
var installed = flag.String("podwall", string(cluster.Manifests), "how podwall is installed: manifests, direct or absent")

func config(c cluster.Config) cluster.Config {
	c.Podwall = cluster.Podwall(*installed)
	return c
}

func TestIPv4(t *testing.T) {
	judge(t, config(cluster.Config{}),
		suite{name: "services", run: services},
		suite{name: "netpol", run: netpol},
	)
}
