package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/policy"
)

// A World keeps policies as texts, and gives back what it was given.
func TestPoliciesComeBack(t *testing.T) {
	r := world{random(t)}
	for range 300 {
		s := policy.Snapshot{Policies: r.policies(policy.Standard, policy.Admin, policy.Baseline)}
		for i := range s.Policies {
			p := &s.Policies[i]
			p.Broken, p.Priority = pick(r, "", "port \"http\": no such name"), pick(r, -1, 0, 1, 1000, 1<<40)
		}
		w := policy.New(s)
		got := sorted(slices.Collect(w.Policies()))
		if a, b := words(t, got), words(t, sorted(s.Policies)); a != b {
			t.Fatalf("given\n%s\ncame back\n%s", b, a)
		}
		// What is given once more is the same, and what differs is not.
		if len(got) == 0 {
			continue
		}
		got[0].Ingress.Applies = !got[0].Ingress.Applies
		w.Apply(policy.Change{Set: policy.Snapshot{Policies: got}})
		if a, b := words(t, sorted(slices.Collect(w.Policies()))), words(t, got); a != b {
			t.Fatalf("changed to\n%s\ncame back\n%s", b, a)
		}
	}
}

// words are policies in a form in which empty lists are missing ones.
func words(t *testing.T, policies []policy.Policy) string {
	t.Helper()
	b, err := json.Marshal(policies)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "[]", "null")
}
