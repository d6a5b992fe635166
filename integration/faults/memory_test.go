package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// Many pods with sets of many addresses: podwalld knows the addresses once, the
// kernel holds them for each pod, some 80 bytes each. So the kernel is what asks
// for most of the memory that there isn't.
const (
	manyAddresses = 16_000
	manyPods      = 40
	allMemory     = 56 << 20 // for podwalld and the kernel, which need half as much again
)

// big lets many addresses in to the pods of shop, and one that is somebody's.
func big(who *lab.Sandbox) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: big}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from:
    - ipBlock: {cidr: %s/32}
`, who.Addr(false))
	for i := range manyAddresses {
		fmt.Fprintf(&b, "    - ipBlock: {cidr: 100.64.%d.%d/32}\n", i/128, i%128*2) // no two are neighbours
	}
	return b.String()
}

// A group is a control group of memory, in which the kernel counts what it holds
// for a process too: the elements of its sets.
type group struct {
	dir, limit, all string // limit is the name of the file, all what it says of no limit
}

// newGroup makes a group without a limit, until the test ends: of the hierarchy
// that counts memory on this machine.
func newGroup(t testing.TB, n *node) group {
	t.Helper()
	g := group{limit: "memory.limit_in_bytes", all: "-1"}
	dir, err := os.MkdirTemp("/run", "memory-")
	must(t, err)
	if err := unix.Mount("memory", dir, "cgroup", 0, "memory"); err != nil {
		g = group{limit: "memory.max", all: "max"}
		must(t, unix.Mount("memory", dir, "cgroup2", 0, ""))
		must(t, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0))
	}
	g.dir = filepath.Join(dir, "podwall-"+n.Name)
	_ = os.Remove(g.dir) // a run's that was killed
	must(t, os.Mkdir(g.dir, 0o755))
	t.Cleanup(func() {
		must(t, n.Kill())
		eventually(t, func() error { return os.Remove(g.dir) })
		must(t, errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)))
	})
	return g
}

// write sets one of the group's files.
func (g group) write(t testing.TB, name, value string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(g.dir, name), []byte(value), 0))
}

// before lets a program run in the group, and collect its garbage at once: what it
// holds before the sets come has to fit.
func (g group) before() []string {
	return []string{"sh", "-c", `echo $$ >` + filepath.Join(g.dir, "cgroup.procs") + `; GOGC=50 exec "$@"`, "sh"}
}

// crowd adds pods that share the policies of shop.
func (n *node) crowd(t testing.TB) []*lab.Sandbox {
	t.Helper()
	var all []*lab.Sandbox
	for i := range manyPods {
		sb := n.bare(t, "shop", fmt.Sprintf("crowd-%d", i))
		must(t, n.plugin(t.Context(), "ADD", sb))
		all = append(all, sb)
	}
	return all
}

// The memory that podwalld may use is exhausted while the sets of a new policy
// are made, and podwalld is killed for it, again and again. Each pod keeps the
// old rules or has the new ones; with memory enough all have the new ones. (Where
// the kernel refuses memory instead, package nft tests what becomes of that.)
func TestKilledForMemory(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	g := newGroup(t, n)
	n.Before = g.before()
	n.start(t)
	crowd := n.crowd(t)
	late := n.bare(t, "shop", "late")
	streams := []*stream{pour(t, n.friend, n.web, 1000, true), pour(t, n.web, n.stranger, 1003, false)}
	g.write(t, g.limit, strconv.Itoa(allMemory))
	must(t, n.WriteManifest("big.yaml", big(n.stranger)))
	for range 2 {
		eventually(t, func() error {
			if n.Running() {
				return errors.New("podwalld runs")
			}
			return nil
		})
		must(t, n.Kill())                                   // nothing but to forget it
		expect(t, n.flows()[0], n.flows()[2], n.flows()[3]) // all but what the new policy allows
		refused(t, n.plugin(t.Context(), "ADD", late), `"code": 11`)
		must(t, n.Launch())
	}
	must(t, n.Kill())
	g.write(t, g.limit, g.all)
	must(t, n.Start(t.Context()))
	must(t, n.plugin(t.Context(), "ADD", late))
	eventually(t, func() error { // what each says; to read all their sets takes longer than the rest
		if now := n.status(t).Attachments; now[api.StateEnforced] != len(crowd)+4 {
			return fmt.Errorf("attachments: %v", now)
		}
		return nil
	})
	expect(t, tcp(n.stranger, n.web, true), tcp(n.web, n.stranger, false))
	for _, s := range streams {
		s.end(t)
	}
}
