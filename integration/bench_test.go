package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podwall/podwall/integration/lab"
)

// peers is how many pods the policy of a benchmark's pod admits. Each has an
// address of either family.
const peers = 1000

// BenchmarkAdd measures what podwall costs a new pod whose policy admits a
// thousand others: the whole ADD with the bridge alone, with the reference plugin
// firewall behind it, and with podwall, in turn and in changing order; and each
// plugin's own process, also in CPU time, which a busy machine changes least. podwalld keeps its state on a real disk.
func BenchmarkAdd(b *testing.B) {
	disk, err := os.MkdirTemp("../.cache", "bench-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(disk) })
	disk, err = filepath.Abs(disk)
	must(b, err)
	n := newNode(b, lab.StateOn(disk))
	must(b, n.WriteManifest("peers.yaml", thousandPeers()))
	must(b, n.Start(b.Context()))
	m := &meter{took: map[string][]time.Duration{}}
	n.Exec = m
	chains := []struct {
		name string
		net  lab.Network
	}{
		{"bridge", n.Network().WithChain()},
		{"bridge+firewall", n.Network().WithChain(map[string]any{"type": "firewall"})},
		{"bridge+podwall", n.Network()},
	}
	for b.Loop() {
		for round := range 100 {
			for i := range chains { // each chain comes after each
				c := chains[(i+round)%len(chains)]
				if round%2 == 1 {
					c = chains[(len(chains)-i+round)%len(chains)]
				}
				m.add("ADD "+c.name, addOnce(b, n, c.net))
			}
		}
	}
	m.report(b, "ADD bridge", "ADD bridge+firewall", "ADD bridge+podwall", "firewall", "podwall", "firewall CPU", "podwall CPU")
	info, err := os.Stat(n.Binary("podwall"))
	must(b, err)
	b.ReportMetric(float64(info.Size())/1e6, "podwall-MB")
	b.ReportMetric(float64(m.rss)/1e3, "podwall-maxrss-MB")
	b.ReportMetric(0, "ns/op") // a loop is a hundred rounds
}

// addOnce adds a pod and deletes it, and returns how long ADD took.
func addOnce(b *testing.B, n *lab.Node, net lab.Network) time.Duration {
	sb, err := n.NewSandbox("shop", "web")
	must(b, err)
	start := time.Now()
	err = n.Add(b.Context(), net, sb, "eth0")
	took := time.Since(start)
	must(b, err)
	must(b, n.Del(b.Context(), net, sb, "eth0"))
	must(b, sb.Delete())
	return took
}

// thousandPeers is a policy for shop/web and the pods that it admits.
func thousandPeers() string {
	var s strings.Builder
	s.WriteString(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: peer}}}]
    ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
`)
	for i := range peers {
		fmt.Fprintf(&s, `---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: peer-%d, labels: {app: peer}}
spec: {nodeName: elsewhere, containers: [{name: main}]}
status: {podIPs: [{ip: 10.7.%d.%d}, {ip: "fd00:7::%x"}]}
`, i, i/250, 1+i%250, i+1)
	}
	return s.String()
}

// A meter runs plugins for libcni, and notes how long each ADD took and how much
// memory podwall used.
type meter struct {
	version.PluginDecoder
	mu   sync.Mutex
	took map[string][]time.Duration // by plugin
	rss  int64                      // podwall's largest, in kB
}

// ExecPlugin runs a plugin.
func (m *meter) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(stdin), &stdout, &stderr, env
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, &types.Error{Code: types.ErrInternal, Msg: path, Details: stdout.String() + stderr.String()}
	}
	if name := filepath.Base(path); slices.Contains(env, "CNI_COMMAND=ADD") {
		m.add(name, time.Since(start))
		m.add(name+" CPU", cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && name == "podwall" {
			m.rss = max(m.rss, usage.Maxrss)
		}
	}
	return stdout.Bytes(), nil
}

// FindInPath is libcni's own.
func (m *meter) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (m *meter) add(name string, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took[name] = append(m.took[name], took)
}

// report prints a table of medians and 99th percentiles.
func (m *meter) report(b *testing.B, names ...string) {
	var s strings.Builder
	fmt.Fprintf(&s, "%d peers, milliseconds:\n%-20s %8s %8s %6s\n", peers, "", "median", "p99", "n")
	for _, name := range names {
		all := slices.Sorted(slices.Values(m.took[name]))
		if len(all) == 0 {
			b.Fatalf("%s was not measured", name)
		}
		median, p99 := ms(all[len(all)/2]), ms(all[len(all)*99/100])
		fmt.Fprintf(&s, "%-20s %8.1f %8.1f %6d\n", name, median, p99, len(all))
		b.ReportMetric(median, strings.ReplaceAll(name, " ", ":")+"-ms")
	}
	b.Log(strings.TrimSpace(s.String()))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
