package policy_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The compiler is pure because it has nothing to be impure with.
func TestImportsNoIO(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("list dependencies: %v", err)
	}
	impure := []string{"net", "net/http", "os/exec", "log", "log/slog", "context", "math/rand", "math/rand/v2"}
	seen := false
	for dep := range strings.FieldsSeq(string(out)) {
		if slices.Contains(impure, dep) || strings.HasPrefix(dep, "k8s.io/") || strings.Contains(dep, "netlink") {
			t.Errorf("policy depends on %s", dep)
		}
		seen = seen || dep == "github.com/podwall/podwall/internal/ruleset"
	}
	if !seen {
		t.Errorf("go list -deps does not name ruleset; it said:\n%s", out)
	}
}
