package e2e

import (
	"flag"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

var (
	installed = flag.String("podwall", string(cluster.Manifests), "how podwall is installed: manifests, direct or absent")
	product   = flag.String("product", "", "the `directory` with podwall's bin and install; this repository if empty")
)

// config is c with podwall in it, as the flags say.
func config(c cluster.Config) cluster.Config {
	c.Product = *product
	if c.Podwall == "" {
		c.Podwall = cluster.Podwall(*installed)
	}
	return c
}

// TestIPv4 is the cluster that most people have.
func TestIPv4(t *testing.T) {
	judge(t, config(cluster.Config{}),
		suite{name: "netpol", run: netpol},
		suite{name: "services", run: services},
		suite{name: "kubelet", run: kubelet},
		suite{name: "race", run: race},
		suite{name: "ambush", run: ambush},
		suite{name: "reboot", run: reboot},
		suite{name: "API server away", run: apiServerAway},
		suite{name: "upgrade", run: upgrade},
		suite{name: "conflist rewritten", run: rewritten},
		suite{name: "runtime restart", run: runtimeRestart},
		suite{name: "uninstall", run: uninstall}, // last: it leaves no old pod of podwall
	)
}

// TestIPTables is kube-proxy's older mode, and the newer runtime.
func TestIPTables(t *testing.T) {
	judge(t, config(cluster.Config{Proxy: "iptables", Containerd: cluster.Containerd2, CNIVersion: "1.1.0"}),
		suite{name: "services", run: services},
		suite{name: "cyclonus", run: cyclonus},
		suite{name: "race", run: race},
		suite{name: "runtime restart", run: runtimeRestart},
		suite{name: "netpol", run: netpol, long: true},
	)
}

// TestDualStack is a cluster in which every pod has two addresses.
func TestDualStack(t *testing.T) {
	judge(t, config(cluster.Config{Families: []cluster.Family{cluster.IPv4, cluster.IPv6}}),
		suite{name: "services", run: services},
		suite{name: "race", run: race, long: true},
		suite{name: "netpol", run: netpol, long: true},
	)
}

// TestIPv6 is a cluster without the other family.
func TestIPv6(t *testing.T) {
	judge(t, config(cluster.Config{Families: []cluster.Family{cluster.IPv6}}),
		suite{name: "services", run: services},
		suite{name: "race", run: race},
		suite{name: "netpol", run: netpol, long: true},
	)
}

// TestService is a cluster in which podwalld is no pod, but a service of each
// node, below a runtime that asks for its status.
func TestService(t *testing.T) {
	judge(t, config(cluster.Config{Podwall: cluster.Direct, Containerd: cluster.Containerd2, CNIVersion: "1.1.0"}),
		suite{name: "STATUS", run: status},
		suite{name: "boot without API server", run: bootAlone},
		suite{name: "reboot", run: reboot},
	)
}
