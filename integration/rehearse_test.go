package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/rehearse"
	"github.com/podwall/podwall/internal/ruleset"
)

// observedShop is a namespace whose accepted flows are observed, with labels for
// web, api, db and jobs, and a policy by which jobs can't reach db.
const observedShop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {podwall.io/observe: "true"}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: api, labels: {app: api}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: jobs, labels: {app: jobs}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, api]}]}}]
`

// A shop is a node with the pods of observedShop, whose flows have been seen.
type shop struct {
	*lab.Node
	web, api, db, jobs *lab.Sandbox
}

// observed makes the shop: web reaches api and db, api reaches db, jobs does not.
func observed(t *testing.T) *shop {
	t.Helper()
	n := newNode(t)
	must(t, n.WriteManifest("shop.yaml", observedShop))
	must(t, n.Start(t.Context(), "--pod-annotations", "observe"))
	s := &shop{n, addPod(t, n, "shop", "web"), addPod(t, n, "shop", "api"), addPod(t, n, "shop", "db"), addPod(t, n, "shop", "jobs")}
	expect(t, tcp(s.web, s.api, true), tcp(s.web, s.db, true), tcp(s.api, s.db, true), tcp(s.jobs, s.db, false))
	eventually(t, func() error { // until all of it has been read
		out, err := n.Policyctl(t.Context(), "get", "flows")
		if n := strings.Count(out, "\n"); err == nil && n < 9 {
			err = fmt.Errorf("%d lines of flows, want a head, two sides of three flows, one each of jobs':\n%s", n, out)
		}
		return err
	})
	return s
}

// status is the exit status of a program whose error is err.
func status(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

const onlyAPI = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [api, jobs]}]}}]
    ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
`

// A rehearsal foretells what packets meet once its manifests are applied, applies
// nothing, and says the same of a file of flows, without a daemon.
func TestRehearse(t *testing.T) {
	t.Parallel()
	s := observed(t)
	manifests := filepath.Join(t.TempDir(), "new.yaml")
	must(t, os.WriteFile(manifests, []byte(onlyAPI), 0o600))
	out, err := s.Policyctl(t.Context(), "rehearse", "-f", manifests, "-o", "json")
	must(t, err)
	var r rehearse.Rehearsal
	must(t, json.Unmarshal([]byte(out), &r))
	var got []string
	for _, c := range r.Changes {
		got = append(got, fmt.Sprintf("%s→%s %s %s", c.From.Pod, c.To.Pod, c.Direction, c.Then.Verdict))
	}
	if want := []string{"web→db ingress Deny", "jobs→db ingress Allow"}; !slices.Equal(got, want) || r.Denied != 1 {
		t.Errorf("%d denied, changes %q, want %q\n%s", r.Denied, got, want, out)
	}
	if c := r.Changes[0]; c.Accepted == 0 || c.Now.Verdict != explain.Allow || c.Now.Policy == nil || c.Now.Policy.Name != "db" {
		t.Errorf("web to db: %+v, want it accepted by shop/db now", c)
	}
	if len(r.Isolated) != 1 || r.Isolated[0].Pod != "shop/api" || r.Isolated[0].Direction != ruleset.Ingress || !r.Isolated[0].Becomes {
		t.Errorf("isolation %+v, want that of api for ingress", r.Isolated)
	}
	if _, err := s.Policyctl(t.Context(), "rehearse", "-f", manifests, "--exit-code"); status(t, err) != 1 {
		t.Errorf("a rehearsal that denies what passed: %v, want exit status 1", err)
	}
	expect(t, tcp(s.web, s.db, true), tcp(s.jobs, s.db, false)) // nothing was applied

	flows, err := s.Policyctl(t.Context(), "get", "flows", "-o", "json")
	must(t, err)
	saved := filepath.Join(t.TempDir(), "flows.json")
	must(t, os.WriteFile(saved, []byte(flows), 0o600))
	must(t, s.WriteManifest("shop.yaml", strings.Split(observedShop, "---\napiVersion: networking")[0]+"---\n"+onlyAPI))
	expect(t, tcp(s.web, s.db, false), tcp(s.jobs, s.db, true), tcp(s.api, s.db, true), tcp(s.web, s.api, true))
	must(t, s.Kill())
	if offline, err := s.Policyctl(t.Context(), "rehearse", "-f", manifests, "--flows", saved, "-o", "json"); err != nil || !sameChanges(t, offline, r) {
		t.Errorf("offline: %v\n%s\nwant the changes of\n%s", err, offline, out)
	}
	out, err = s.Policyctl(t.Context(), "rehearse", "--delete", "networkpolicy/shop/db", "--flows", saved)
	must(t, err)
	if !strings.Contains(out, "✓ shop/jobs → shop/db:80 TCP") || !strings.Contains(out, "shop/db is no longer isolated for ingress; by shop/db") {
		t.Errorf("without the policy:\n%s", out)
	}
}

// sameChanges reports whether a rehearsal on paper changes what r does.
func sameChanges(t *testing.T, out string, r rehearse.Rehearsal) bool {
	t.Helper()
	var other rehearse.Rehearsal
	must(t, json.Unmarshal([]byte(out), &other))
	return slices.EqualFunc(other.Changes, r.Changes, func(a, b rehearse.Change) bool {
		return a.From.Pod == b.From.Pod && a.To.Pod == b.To.Pod && a.Direction == b.Direction && a.Then.Verdict == b.Then.Verdict
	})
}
