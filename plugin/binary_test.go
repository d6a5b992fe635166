package main

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

// build makes the plugin as make build does.
func build(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "podwall")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

func TestBinary(t *testing.T) {
	binary := build(t)
	t.Run("is small", func(t *testing.T) {
		const most = 6 << 20
		st, err := os.Stat(binary)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > most {
			t.Errorf("%d bytes, want at most %d", st.Size(), most)
		}
	})
	t.Run("is static", func(t *testing.T) {
		f, err := elf.Open(binary)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("has a %s segment", p.Type)
			}
		}
	})
	t.Run("needs little memory", func(t *testing.T) { resident(t, binary) })
	t.Run("installs rules in the kernel", func(t *testing.T) { addForReal(t, binary) })
	t.Run("may be killed", func(t *testing.T) { killed(t, binary) })
}

// podWithLink is a fixture whose pod has an interface, for the plugin as it is shipped.
func podWithLink(t testing.TB) (f *fixture, stdin string) {
	t.Helper()
	f = setup(t)
	f.pod.Run(t, "ip link add eth0 type veth peer name node0")
	b, err := json.Marshal(f.conf)
	if err != nil {
		t.Fatal(err)
	}
	return f, string(b)
}

// mustHold checks that the pod's kernel has rules of eth0.
func (f *fixture) mustHold(t *testing.T) {
	t.Helper()
	if got := f.pod.Run(t, "nft list table inet podwall"); !strings.Contains(got, "eth0/ingress") {
		t.Errorf("the kernel holds\n%s\nwant eth0's rules", got)
	}
}

// addForReal runs an ADD in which only the daemon is played, twice, and a DEL,
// which leaves the rules where they are.
func addForReal(t *testing.T, binary string) {
	f, stdin := podWithLink(t)
	for range 2 {
		o := f.exec(t, binary, "ADD", stdin)
		o.mustSucceed(t)
		sameJSON(t, o.stdout, f.conf["prevResult"])
		var done api.Applied
		f.mustGet(t, &done, api.VerbAdd, api.VerbApplied)
		if done.Epoch == 0 || done.Generation == 0 {
			t.Errorf("reported %+v, want what stands in the kernel", done)
		}
	}
	f.exec(t, binary, "DEL", stdin).mustSucceed(t)
	f.mustHold(t)
}

// waiting starts an ADD and returns when the daemon has got n messages, the last
// of which it leaves unanswered.
func (f *fixture) waiting(t *testing.T, binary, stdin string, n int) *exec.Cmd {
	t.Helper()
	cmd := f.command(t, binary, "ADD", stdin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if got := len(f.got); got != n {
			return fmt.Errorf("%d messages came, want %d", got, n)
		}
		return nil
	})
	return cmd
}

// killed shows that an ADD may be killed wherever it waits, and that the next one
// puts everything right.
func killed(t *testing.T, binary string) {
	for n, verb := range []api.Verb{api.VerbAdd, api.VerbApplied} {
		f, stdin := podWithLink(t)
		f.reply[verb] = answer{hang: true}
		cmd := f.waiting(t, binary, stdin, n+1)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("killed after %s, ADD succeeded", verb)
		}
		f.mu.Lock()
		f.got, f.reply = nil, nil
		f.mu.Unlock()
		f.exec(t, binary, "ADD", stdin).mustSucceed(t)
		f.mustGet(t, nil, api.VerbAdd, api.VerbApplied)
		f.mustHold(t)
	}
}

// resident measures a plugin whose daemon lets it wait for the last answer: by
// then it has done all its work.
func resident(t *testing.T, binary string) {
	const most = 15 << 10 // KiB
	f, stdin := podWithLink(t)
	f.reply[api.VerbAdd] = answer{verb: api.VerbRules, body: manyPeers(1000)}
	f.reply[api.VerbApplied] = answer{hang: true}
	cmd := f.waiting(t, binary, stdin, 2)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f.stop()
	if err := cmd.Wait(); err == nil {
		t.Error("ADD succeeded without the daemon's last answer")
	}
	var peak int
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &peak); err != nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	if peak > most {
		t.Errorf("%d KiB resident with 1,000 peers, want at most %d", peak, most)
	}
}

// What the plugin links is started with each pod.
func TestLinksNothingHeavy(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("%d dependencies, which can't be all", len(deps))
	}
	for _, dep := range deps {
		for _, heavy := range []string{
			"github.com/podwall/podwall/internal/policy", "github.com/podwall/podwall/internal/kubepolicy", "k8s.io/", "sigs.k8s.io/",
			"go.etcd.io/bbolt", "github.com/containernetworking/plugins", "net/http", "go.yaml.in", "github.com/spf13", "log/slog",
		} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("links %s", dep)
			}
		}
	}
}

// manyPeers is a rule set that admits n addresses to one port.
func manyPeers(n int) ruleset.RuleSet {
	var peers ruleset.Peers
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i / 128), byte(i % 128 * 2)}) // no two are neighbours
		peers.Prefixes = append(peers.Prefixes, netip.PrefixFrom(addr, 32))
	}
	web := ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}
	return ruleset.RuleSet{
		Addresses: addrs("10.0.0.2"),
		Ingress: ruleset.Chain{Default: ruleset.Accept, Tiers: []ruleset.Tier{{
			Name: ruleset.TierPolicy, Selected: []ruleset.Ref{web},
			Rules: []ruleset.Rule{{Origin: web, Action: ruleset.Accept, Matches: []ruleset.Match{{
				Peers: peers, Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: 80, Last: 80}},
			}}}},
		}}},
		Egress: ruleset.Chain{Default: ruleset.Accept},
	}
}

// BenchmarkStart is what the process itself costs; BenchmarkAdd is a whole ADD
// with a daemon that answers at once.
func BenchmarkStart(b *testing.B) {
	binary := build(b)
	for b.Loop() {
		cmd := exec.Command(binary)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	binary := build(b)
	for _, peers := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d peers", peers), func(b *testing.B) {
			f, stdin := podWithLink(b)
			f.reply[api.VerbAdd] = answer{verb: api.VerbRules, body: manyPeers(peers)}
			for b.Loop() {
				b.StopTimer()
				f.pod.Run(b, "nft flush ruleset") // a new pod has none
				cmd := f.command(b, binary, "ADD", stdin)
				b.StartTimer()
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			}
		})
	}
}
