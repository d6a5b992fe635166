package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/lab"
)

// Rules outlive the daemon, and its return writes nothing: neither netlink's
// witness nor the generation says so.
func TestRestartWritesNothing(t *testing.T) {
	t.Parallel()
	n := newNeighbourhood(t)
	sb := addPod(t, n.Node, "shop", "web")
	n.guarded(t, sb)
	witness := watch(t, sb)
	before := podwallTable(t, sb)
	all, err := inspect(t.Context(), n.Node, sb.Pod())
	must(t, err)

	for name, end := range map[string]func() error{"killed": n.Kill, "stopped": n.Stop} {
		must(t, end())
		n.reached(t, sb, false)
		must(t, n.Start(t.Context()))
		n.guarded(t, sb)
		again, err := inspect(t.Context(), n.Node, sb.Pod())
		must(t, err)
		if got, want := again[0].Kernel.Generation, all[0].Kernel.Generation; got != want {
			t.Errorf("daemon %s: generation = %d, want %d as before", name, got, want)
		}
		if again[0].Status.Revision != all[0].Status.Revision {
			t.Errorf("daemon %s: revision = %s, want %s as before", name, again[0].Status.Revision, all[0].Status.Revision)
		}
	}
	if out := witness(); out != "" {
		t.Errorf("nft monitor saw\n%s", out)
	}
	if after := podwallTable(t, sb); after != before {
		t.Errorf("rules before\n%s\nand after\n%s", before, after)
	}
}

// podwallTable is podwall's table in a sandbox, without the numbers that packets
// change.
func podwallTable(t *testing.T, sb *lab.Sandbox) string {
	t.Helper()
	out, err := sb.Output(t.Context(), "nft", "list", "table", "inet", "podwall")
	must(t, err)
	lines := strings.Split(out, "\n")
	for i, l := range lines {
		if strings.HasPrefix(strings.TrimSpace(l), "packets ") {
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}

// watch lists the changes of nftables in a sandbox, from now until what it
// returns is called. A change of its own tells when it has begun to listen.
func watch(t *testing.T, sb *lab.Sandbox) func() string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "monitor")
	stop, err := sb.Background(log, "stdbuf", "-oL", "nft", "monitor")
	must(t, err)
	t.Cleanup(stop)
	tries := 0
	has := func(word string) func() error {
		return func() error {
			tries++ // a table that is there already is no news
			if _, err := sb.RunErr(fmt.Sprintf("nft add table inet %s-%d", word, tries)); err != nil {
				return err
			}
			b, err := os.ReadFile(log)
			if err == nil && !strings.Contains(string(b), word) {
				err = fmt.Errorf("nft monitor does not show table %s", word)
			}
			return err
		}
	}
	eventually(t, has("witness-begin"))
	return func() string {
		t.Helper()
		eventually(t, has("witness-end"))
		b, err := os.ReadFile(log)
		must(t, err)
		var foreign []string
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "witness-end") {
				break // half a line may be behind it
			}
			if !strings.Contains(line, "witness-") && !strings.Contains(line, "(nft)") {
				foreign = append(foreign, line)
			}
		}
		return strings.Join(foreign, "")
	}
}
