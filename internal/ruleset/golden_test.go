package ruleset_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

var update = flag.Bool("update", false, "write want.nft of every golden case")

// Each case says why it exists; its last section is what policyctl compile
// prints for its rule set, what nft loads, and what the kernel gives back in a
// form that loads again.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden cases: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			golden, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(golden.Files) != 2 || golden.Files[0].Name != "ruleset.yaml" || golden.Files[1].Name != "want.nft" {
				t.Fatalf("%s has not the sections ruleset.yaml and want.nft", file)
			}
			var rs ruleset.RuleSet
			if err := yaml.UnmarshalStrict(golden.Files[0].Data, &rs); err != nil {
				t.Fatal(err)
			}
			table := rs.Lower("eth0", 1)
			checkTable(t, table)
			got := table.Text()
			if *update {
				golden.Files[1].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(golden), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(golden.Files[1].Data), got); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			load(t, got)
		})
	}
}

// load puts text into a kernel, and what nft lists there into another. nft may
// order and space things in its own way, so both listings are compared.
func load(t *testing.T, text string) {
	t.Helper()
	listed := text
	for range 2 {
		ns := netnstest.New(t)
		ns.Run(t, "ip link add eth0 type veth peer name far0")
		file := filepath.Join(t.TempDir(), "rules.nft")
		if err := os.WriteFile(file, []byte(listed), 0o644); err != nil {
			t.Fatal(err)
		}
		before := listed
		listed = ns.Run(t, "nft -f "+file+" && nft -s list ruleset")
		if before != text && listed != before {
			t.Errorf("listing changes when it is loaded (-first +second):\n%s", cmp.Diff(before, listed))
		}
	}
}
