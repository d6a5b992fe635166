package doctor

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/internal/api"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == probe.Hold { // the examination has started itself
		probe.Wait(os.Stdin)
		return
	}
	os.Exit(m.Run())
}

const conflist = `{"cniVersion": "1.0.0", "name": "k8s", "plugins": [{"type": "bridge"}, {"type": "podwall"}]}`

// entry is one of libcni's cache about a namespace.
func entry(network, conflist, netns string) string {
	return fmt.Sprintf(`{"networkName": %q, "netns": %q, "config": %q}`, network, netns, base64.StdEncoding.EncodeToString([]byte(conflist)))
}

// A patient is a node, and what to do to it before it is examined.
type patient struct {
	Node
	files  map[string]string
	status api.Status
	pods   []api.PodSummary
	away   error
	lacks  probe.Lacks
	tried  error
	clock  bool
	free   uint64
	about  string
	mode   fs.FileMode // of the socket; 0 makes a file instead
}

// healthy is a node on which nothing is wrong.
func healthy(t *testing.T) *patient {
	p := &patient{
		files: map[string]string{
			"/proc/sys/kernel/osrelease":                   "6.18.5\n",
			"/proc/sys/net/netfilter/nf_conntrack_max":     "1000\n",
			"/proc/sys/net/netfilter/nf_conntrack_count":   "30\n",
			"/proc/sys/net/ipv4/ip_forward":                "1\n",
			"/proc/sys/net/ipv4/conf/all/rp_filter":        "2\n",
			"/proc/sys/fs/inotify/max_user_instances":      "128\n",
			"/opt/cni/bin/podwall":                         "binary",
			"/etc/cni/net.d/10-k8s.conflist":               conflist,
			"/var/lib/cni/results/k8s-1-eth0":              entry("k8s", conflist, "/run/netns/one"),
			"/var/lib/cni/results/gone":                    entry("k8s", `{"name": "k8s", "plugins": [{"type": "bridge"}]}`, "/run/netns/gone"),
			"/var/lib/cni/results/cni-loopback-1-lo":       entry("lo", `{"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]}`, "/run/netns/one"),
			"/run/netns/one":                               "",
			"/etc/cni/net.d/README":                        "no network",
			"/proc/sys/user/max_net_namespaces":            "10000\n",
			"/etc/containerd/config.toml":                  "# conf_dir = \"/elsewhere\"\n",
			"/var/lib/rancher/k3s/agent/etc/containerd/no": "",
		},
		status: api.Status{Ready: true, Version: "v1", Node: "n1", Source: api.SourceStatus{Kind: "manifests", Location: "/p", Synced: true, Objects: map[string]int{"Pod": 2}},
			Store: api.StoreStatus{Path: "/var/lib/podwall/state.db", Bytes: 32 << 10}},
		pods:  []api.PodSummary{{Attachment: api.Attachment{Key: api.Key{Interface: "eth0"}, Namespace: "shop", Name: "web"}, Status: api.AttachmentStatus{State: api.StateEnforced}}},
		clock: true, free: 1 << 30, mode: 0o600, about: "CNI plugin podwall v1: a firewall for every pod\nCNI protocol versions supported: 1.0.0\n",
	}
	p.Node = Node{
		Root: t.TempDir(), CNIBin: "/opt/cni/bin", CNICache: "/var/lib/cni", Version: "v1", Privileged: true,
		Probe:        func() (probe.Lacks, error) { return p.lacks, p.tried },
		Run:          func(context.Context, string, ...string) (string, error) { return p.about, nil },
		Synchronised: func() (bool, error) { return p.clock, nil },
		Free:         func(string) (uint64, error) { return p.free, nil },
		Now:          func() time.Time { return time.Unix(1e9, 0) },
		Ask: func(_ context.Context, verb api.Verb, answer any) error {
			switch answer := answer.(type) {
			case *api.Status:
				*answer = p.status
			case *[]api.PodSummary:
				*answer = p.pods
			default:
				t.Errorf("asked %s", verb)
			}
			return p.away
		},
	}
	p.Socket = filepath.Join(p.Root, "podwalld.sock")
	return p
}

// examine makes the patient's files, and examines it.
func (p *patient) examine(t *testing.T) []Result {
	t.Helper()
	for path, content := range p.files {
		full := filepath.Join(p.Root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if p.away == nil {
		p.listen(t)
	}
	return p.Examine(t.Context())
}

// listen makes the socket.
func (p *patient) listen(t *testing.T) {
	t.Helper()
	if p.mode == 0 {
		if err := os.WriteFile(p.Socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(p.Socket, p.mode); err != nil {
		t.Fatal(err)
	}
}

func TestHealthyNode(t *testing.T) {
	var names []string
	for _, r := range healthy(t).examine(t) {
		names = append(names, r.Check)
		if r.Verdict != OK || r.Advice != "" {
			t.Errorf("%+v", r)
		}
	}
	want := []string{"kernel", "conntrack", "sysctl", "plugin", "chain", "last pod", "clock", "socket", "daemon", "version", "source", "policy", "store", "pods"}
	if !slices.Equal(names, want) {
		t.Errorf("checks %q, want %q", names, want)
	}
}

func TestWhatIsWrong(t *testing.T) {
	file := func(path, content string) func(*patient) { return func(p *patient) { p.files[path] = content } }
	without := func(path string) func(*patient) { return func(p *patient) { delete(p.files, path) } }
	const cache, netD = "/var/lib/cni/results/", "/etc/cni/net.d/"
	bare := `{"cniVersion": "1.0.0", "name": "k8s", "plugins": [{"type": "bridge"}]}`
	tests := []struct {
		name    string
		do      func(*patient)
		check   string
		verdict Verdict
		found   string
	}{
		{"a kernel without nftables", func(p *patient) { p.tried = errors.New("no such protocol") }, "kernel", Failed, "no such protocol"},
		{"an old kernel", func(p *patient) { p.lacks.Guard = "EOPNOTSUPP" }, "kernel: raw sockets", Warning, "past their rules"},
		{"a kernel not quite new", func(p *patient) { p.lacks.Owner = "EINVAL" }, "kernel: ownership", Warning, "repaired, not prevented"},
		{"somebody who is not root", func(p *patient) { p.Privileged = false }, "kernel", Unknown, "that takes root"},
		{"a table that is nearly full", file("/proc/sys/net/netfilter/nf_conntrack_count", "960"), "conntrack", Failed, "960 of 1000"},
		{"a table that fills", file("/proc/sys/net/netfilter/nf_conntrack_count", "800"), "conntrack", Warning, "80 %"},
		{"no connection tracking", without("/proc/sys/net/netfilter/nf_conntrack_max"), "conntrack", Unknown, "no such file"},
		{"a number that is none", file("/proc/sys/net/netfilter/nf_conntrack_max", "many"), "conntrack", Unknown, "invalid syntax"},
		{"a node that forwards nothing", file("/proc/sys/net/ipv4/ip_forward", "0"), "sysctl", Warning, "net.ipv4.ip_forward is 0"},
		{"a strict reverse path filter", file("/proc/sys/net/ipv4/conf/all/rp_filter", "1"), "sysctl", Warning, "strict"},
		{"no plugin", without("/opt/cni/bin/podwall"), "plugin", Failed, "does not exist"},
		{"another plugin of that name", func(p *patient) { p.about = "hello" }, "plugin", Failed, "not podwall's plugin"},
		{"an old plugin", func(p *patient) { p.about = "CNI plugin podwall v0: old" }, "plugin", Warning, "is v0, policyctl v1"},
		{"a chain without podwall", file(netD+"10-k8s.conflist", bare), "chain", Failed, "bridge: podwall is not its last plugin"},
		{"a network that sorts before", file(netD+"05-other.conflist", strings.Replace(bare, "k8s", "other", 1)), "chain", Failed, "05-other.conflist"},
		{"an entry with other fields is as good", file(netD+"10-k8s.conflist", strings.Replace(conflist, `"podwall"`, `"podwall", "socket": "/x"`, 1)), "chain", OK, "bridge → podwall"},
		{"a second network without", file(netD+"20-other.conflist", strings.Replace(bare, "k8s", "other", 1)), "chain", Warning, "20-other.conflist"},
		{"no network", without(netD + "10-k8s.conflist"), "chain", Failed, "no network"},
		{"a runtime that reads elsewhere", file("/etc/containerd/config.toml", "[x]\n  conf_dir = \"/data/cni\"\n"), "chain", Failed, "/data/cni, as containerd is configured"},
		{"a runtime that does otherwise", file(cache+"k8s-1-eth0", entry("k8s", bare, "/run/netns/one")), "last pod", Failed, "without podwall"},
		{"a file where the socket should be", func(p *patient) { p.mode = 0 }, "socket", Failed, "is no socket"},
		{"a socket for all", func(p *patient) { p.mode = 0o666 }, "socket", Failed, "mode 0666"},
		{"a daemon that is away", func(p *patient) { p.away = fs.ErrNotExist }, "daemon", Failed, "rules stay in place"},
		{"and all that hangs on it", func(p *patient) { p.away = fs.ErrNotExist }, "all else", Unknown, "podwalld's to tell"},
		{"and its socket", func(p *patient) { p.away = fs.ErrNotExist }, "socket", Failed, "does not exist"},
		{"a daemon that may not be asked", func(p *patient) { p.away = fs.ErrPermission }, "daemon", Unknown, "permission denied"},
		{"a daemon that waits", func(p *patient) { p.status.Ready, p.status.Reason = false, "still looking" }, "daemon", Failed, "still looking"},
		{"another version", func(p *patient) { p.status.Version = "v2" }, "version", Warning, "podwalld is v2, policyctl v1"},
		{"a source that is away", func(p *patient) { p.status.Source.Synced = false }, "source", Failed, "not read yet"},
		{"a source without policy", func(p *patient) { p.status.Source.Objects = nil }, "source", Warning, "no pod is isolated"},
		{"a source that is silent", func(p *patient) { p.status.Source.Lag = time.Minute }, "source", Warning, "has not come through for 1m0s"},
		{"a source that was known better once", func(p *patient) { p.status.Source.KnownAt = time.Unix(1e9, 0) }, "source", Warning, "known at 2001-09-09 01:46:40 UTC"},
		{"a policy that is wrong", func(p *patient) { p.status.Problems = []api.Problem{{Object: "NetworkPolicy a/b", Message: "bad"}} }, "policy", Warning, "NetworkPolicy a/b: bad"},
		{"a full disk", func(p *patient) { p.free = 1 << 20 }, "store", Failed, "1 MiB free"},
		{"a disk that fills", func(p *patient) { p.free = 100 << 20 }, "store", Warning, "100 MiB free"},
		{"a database that was damaged", func(p *patient) { p.status.Store.Note = "set aside" }, "store", Warning, "set aside"},
		{"a pod without its rules", func(p *patient) { p.pods[0].Status = api.AttachmentStatus{State: api.StateError, Message: "no memory"} }, "pods", Failed, "shop/web, eth0: Error; no memory"},
		{"a pod whose rules don't bind", func(p *patient) { p.pods[0].Status.State = api.StateUnprotected }, "pods", Warning, "Unprotected"},
		{"a clock that nobody minds", func(p *patient) { p.clock = false }, "clock", Warning, "nothing keeps it right"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := healthy(t)
			tt.do(p)
			all := p.examine(t)
			i := slices.IndexFunc(all, func(r Result) bool { return r.Check == tt.check && r.Verdict == tt.verdict })
			if i < 0 || !strings.Contains(all[i].Found, tt.found) {
				t.Fatalf("want check %q %s with %q, got %+v", tt.check, tt.verdict, tt.found, all)
			}
			for _, r := range all {
				if (r.Verdict == OK) != (r.Advice == "") || r.Found == "" {
					t.Errorf("%+v: advice is for what is not well", r)
				}
			}
			if (Failures(all) > 0) != slices.ContainsFunc(all, func(r Result) bool { return r.Verdict == Failed }) {
				t.Errorf("%d failures in %+v", Failures(all), all)
			}
		})
	}
}

// The latest pod counts, not the last by name, and earlier ones are counted.
func TestLastPodIsTheLatest(t *testing.T) {
	p := healthy(t)
	p.files["/var/lib/cni/results/a"] = entry("k8s", `{"cniVersion": "1.0.0", "name": "k8s", "plugins": [{"type": "bridge"}]}`, "/run/netns/one")
	p.examine(t)
	if err := os.Chtimes(filepath.Join(p.Root, "/var/lib/cni/results/a"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if r := p.lastPod(t.Context())[0]; r.Verdict != OK || !strings.Contains(r.Found, "1 earlier ones without") {
		t.Errorf("%+v", r)
	}
}

func TestNetworks(t *testing.T) {
	p := healthy(t)
	p.examine(t)
	if got := maps.Collect(maps.All(p.Networks())); len(got) != 1 || got["10-k8s.conflist"] != "/etc/cni/net.d/10-k8s.conflist" {
		t.Errorf("networks %v", got)
	}
}

// What is asked of the real machine can be asked.
func TestThisMachine(t *testing.T) {
	n := ThisMachine()
	if r := n.kernel(t.Context()); r[0].Verdict != OK {
		t.Errorf("kernel: %+v", r)
	}
	if _, err := n.Synchronised(); err != nil {
		t.Errorf("clock: %v", err)
	}
	if free, err := n.Free(filepath.Join(t.TempDir(), "state.db")); err != nil || free == 0 {
		t.Errorf("free: %d, %v", free, err)
	}
	t.Setenv("SECRET", "hunter2")
	if out, err := n.Run(t.Context(), "env"); err != nil || strings.Contains(out, "SECRET") {
		t.Errorf("a program that is run sees %q, %v", out, err)
	}
}
