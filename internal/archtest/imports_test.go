package archtest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A direction is a law about what packages know of each other. A name stands for
// itself and all below it; names that begin with internal, plugin, daemon or
// install are the project's own.
type direction struct {
	law     string
	who     []string // the packages bound by it; "" binds all
	except  []string
	imports []string // what they may not import themselves
	links   []string // what they may not depend on, not even through others
}

var (
	kubernetes = []string{"k8s.io", "sigs.k8s.io"}
	outside    = []string{"net", "os", "os/exec", "log", "log/slog", "context", "time", "sync", "syscall"}
)

// std in links stands for everything that is not the standard library's.
const notStd = "not std"

var directions = []direction{
	{
		law:   "the plugin stays small: it knows no policies, no Kubernetes, no database",
		who:   []string{"plugin"},
		links: append([]string{"internal/policy", "internal/kubepolicy", "go.etcd.io/bbolt", "github.com/prometheus"}, kubernetes...),
	},
	{
		law:     "rule sets are plain data and pure functions",
		who:     []string{"internal/ruleset"},
		imports: outside,
		links:   []string{notStd, "net", "context", "log"},
	},
	{
		law:     "policy computes; it does no I/O and reads no clock",
		who:     []string{"internal/policy"},
		imports: outside,
		links:   append([]string{"net", "net/http", "os/exec", "log", "context", "github.com/vishvananda"}, kubernetes...),
	},
	{
		law:     "only kubepolicy and the source know Kubernetes' types",
		who:     []string{""},
		except:  []string{"internal/kubepolicy", "daemon/source", "integration"},
		imports: []string{"k8s.io/api", "k8s.io/client-go", "k8s.io/apimachinery", "sigs.k8s.io/network-policy-api"},
	},
	{
		law:    "only nft speaks nftables",
		who:    []string{""},
		except: []string{"internal/nft"},
		imports: []string{"github.com/google/nftables", "sigs.k8s.io/knftables", "github.com/coreos/go-iptables",
			"github.com/networkplumbing/go-nft"},
	},
	{
		law:     "only netnstest enters network namespaces, and nft asks which one this is",
		who:     []string{""},
		except:  []string{"internal/netnstest", "internal/nft"},
		imports: []string{"github.com/vishvananda/netns", "github.com/containernetworking/plugins/pkg/ns"},
	},
	{
		law:    "the product has no test code in it",
		who:    []string{""},
		except: []string{"internal/netnstest", "integration"},
		links:  []string{"testing", "net/http/httptest", "internal/netnstest", "internal/archtest"},
	},
	{
		law:     "only metrics speaks Prometheus' language",
		who:     []string{""},
		except:  []string{"daemon/metrics", "integration"},
		imports: []string{"github.com/prometheus"},
	},
	{
		law:   "nothing internal knows the binaries",
		who:   []string{"internal"},
		links: []string{"plugin", "daemon", "install"},
	},
	{
		law:   "the binaries meet over the socket, not over each other's packages",
		who:   []string{"plugin", "install", "daemon/policyctl"},
		links: []string{"daemon/store", "daemon/reconcile", "daemon/server"},
	},
}

// within reports whether a package is name or below it.
func within(path, name string) bool {
	if name == notStd {
		first, _, _ := strings.Cut(path, "/")
		return strings.Contains(first, ".") && !strings.HasPrefix(path, module)
	}
	if name == "" {
		return true
	}
	path = strings.TrimPrefix(path, module+"/")
	return path == name || strings.HasPrefix(path, name+"/")
}

// forbidden returns the entries of paths that are one of names: of the standard
// library's packages only these, of all others also what is below them.
func forbidden(paths, names []string) []string {
	var bad []string
	for _, p := range paths {
		if slices.ContainsFunc(names, func(n string) bool {
			return p == n || (strings.Contains(p, ".") && within(p, n))
		}) {
			bad = append(bad, p)
		}
	}
	return bad
}

func TestDirections(t *testing.T) {
	all := packages(t)
	for _, d := range directions {
		t.Run(d.law, func(t *testing.T) {
			for _, p := range all {
				is := func(name string) bool { return within(p.ImportPath, name) }
				if !slices.ContainsFunc(d.who, is) || slices.ContainsFunc(d.except, is) {
					continue
				}
				for _, bad := range forbidden(p.Imports, d.imports) {
					t.Errorf("%s imports %s", p.path(), bad)
				}
				for _, bad := range forbidden(p.Deps, d.links) {
					t.Errorf("%s depends on %s", p.path(), bad)
				}
			}
		})
	}
}

// Names in the table that mean nothing would be laws that bind nobody.
func TestForbidden(t *testing.T) {
	tests := []struct {
		name, path string
		want       bool
	}{
		{"net", "net", true},
		{"net", "net/netip", false},
		{"k8s.io", "k8s.io/api/core/v1", true},
		{"k8s.io", "sigs.k8s.io/yaml", false},
		{"internal/policy", module + "/internal/policy", true},
		{"internal/policy", module + "/internal/policyx", false},
		{"daemon", module + "/daemon/store", true},
		{notStd, "encoding/json", false},
		{notStd, "vendor/golang.org/x/net/dns/dnsmessage", false},
		{notStd, module + "/internal/ruleset", false},
		{notStd, "golang.org/x/sys/unix", true},
	}
	for _, tt := range tests {
		if got := len(forbidden([]string{tt.path}, []string{tt.name})) > 0; got != tt.want {
			t.Errorf("%q forbids %q: %v, want %v", tt.name, tt.path, got, tt.want)
		}
	}
}

// The folders that anybody needs to know, and what is not under version control.
var (
	folders = []string{".ci", "conf", "daemon", "docs", "install", "integration", "internal", "plugin"}
	ignored = []string{".git", ".cache", ".cluster", "bin"}
)

func TestTopFolders(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(folders, e.Name()) && !slices.Contains(ignored, e.Name()) {
			t.Errorf("%s is not one of %v", e.Name(), folders)
		}
	}
}
