//go:build e2e

package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/integration/plane"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

const node = "node-1"

// A reader takes Updates in, as the daemon does.
type consumer struct {
	t *testing.T
	*Source
	stop func()

	mu         sync.Mutex
	updates    int
	wholes     int
	gone       int // how many objects were said to be gone
	pods       map[policy.Name]policy.Pod
	policies   map[ruleset.Ref]policy.Policy
	namespaces map[string]policy.Namespace
	problems   []api.Problem
	objects    map[string]int
	unknown    string
	hold       chan struct{} // publish waits while it is open
}

// follow runs a source until the test ends.
func follow(t *testing.T, s *Source) *consumer {
	t.Helper()
	s.Node, s.Log = node, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	c := &consumer{t: t, Source: s, pods: map[policy.Name]policy.Pod{}, policies: map[ruleset.Ref]policy.Policy{}, namespaces: map[string]policy.Namespace{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, c.take) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		start := time.Now()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("Run took %s to stop", took)
		}
	})
	t.Cleanup(c.stop)
	return c
}

func (c *consumer) take(u source.Update) {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.updates++
	c.problems, c.objects, c.unknown = u.Problems, u.Objects, u.Unknown
	if u.Whole {
		c.wholes++
		clear(c.pods)
		clear(c.policies)
		clear(c.namespaces)
	}
	for _, p := range u.Set.Pods {
		c.pods[policy.Name{Namespace: p.Namespace, Name: p.Name}] = p
	}
	for _, p := range u.Set.Policies {
		c.policies[p.Ref] = p
	}
	for _, n := range u.Set.Namespaces {
		c.namespaces[n.Name] = n
	}
	for _, n := range u.Gone.Pods {
		delete(c.pods, n)
	}
	for _, r := range u.Gone.Policies {
		delete(c.policies, r)
	}
	for _, n := range u.Gone.Namespaces {
		delete(c.namespaces, n)
	}
	c.gone += len(u.Gone.Pods) + len(u.Gone.Policies) + len(u.Gone.Namespaces) + len(u.Gone.Slices) + len(u.Gone.Services) + len(u.Gone.Nodes)
}

// sees waits until the consumer has what is wanted.
func (c *consumer) sees(p *plane.Plane, what string, ok func() bool) {
	c.t.Helper()
	p.Until(what, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if ok() {
			return nil
		}
		return fmt.Errorf("pods %v, policies %v, namespaces %v, unknown %q, problems %v", slices.Collect(maps.Keys(c.pods)),
			slices.Collect(maps.Keys(c.policies)), slices.Collect(maps.Keys(c.namespaces)), c.unknown, c.problems)
	})
}

func (c *consumer) problem(text string) bool {
	return slices.ContainsFunc(c.problems, func(p api.Problem) bool { return strings.Contains(p.String(), text) })
}

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: blue}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
---
` + web

const web = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  containers: [{name: c, image: c, ports: [{name: http, containerPort: 80}]}]
`

var (
	webPod    = policy.Name{Namespace: "shop", Name: "web"}
	webPolicy = ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}
)

// own is a source with the rights that install/manifests gives it.
func own(p *plane.Plane) *Source {
	return &Source{Kubeconfig: p.Kubeconfig("own.kubeconfig", p.URL(), plane.OwnToken)}
}

func TestWatch(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool {
		return c.wholes == 1 && c.unknown == "" && c.pods[webPod].Labels["app"] == "web" && c.policies[webPolicy].Ingress.Applies
	})
	if len(c.problems) > 0 {
		t.Errorf("with the rules of install/manifests: problems %v", c.problems)
	}
	t.Log("objects", c.objects)

	p.Kubectl("", "label", "-n", "shop", "pod", "web", "tier=front")
	c.sees(p, "the label is known", func() bool { return c.pods[webPod].Labels["tier"] == "front" })
	p.Apply(strings.ReplaceAll(web, "name: web", "name: agent") + "  hostNetwork: true\n")
	c.sees(p, "a pod in this node's network is known", func() bool { return c.pods[policy.Name{Namespace: "shop", Name: "agent"}].HostNetwork })
	p.Apply(strings.NewReplacer("name: web", "name: far", "node-1", "node-2").Replace(web) + "  hostNetwork: true\n")
	p.Apply(strings.ReplaceAll(web, "name: web", "name: job"))
	job := policy.Name{Namespace: "shop", Name: "job"}
	c.sees(p, "the job's pod is known", func() bool { return c.pods[job].Name == "job" })
	p.Kubectl("", "patch", "-n", "shop", "pod", "job", "--subresource=status", "-p", `{"status":{"phase":"Succeeded","podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}]}}`)
	c.sees(p, "a pod that runs no more is gone", func() bool { _, there := c.pods[job]; return !there })
	p.Kubectl("", "delete", "-n", "shop", "networkpolicy", "web")
	c.sees(p, "the policy is gone", func() bool { return len(c.policies) == 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.pods[policy.Name{Namespace: "shop", Name: "far"}]; there {
		t.Error("a pod in another node's network is read")
	}
	if c.wholes != 1 {
		t.Errorf("%d Updates were whole, want the first alone", c.wholes)
	}
}

// Whatever happens to the API server, what follows is differences.
func TestInterruptions(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.policies) == 1 && len(c.pods) == 1 })
	base := func() (int, int) { c.mu.Lock(); defer c.mu.Unlock(); return c.gone, c.wholes }
	gone, _ := base()

	p.StopAPI()
	c.sees(p, "it is said that the API server is away", func() bool { return c.problem("connection refused") })
	st := c.Status()
	if st.Lag <= 0 || st.Heard.IsZero() {
		t.Errorf("while the API server is away the status is %+v", st)
	}
	p.StartAPI()
	p.Apply(strings.ReplaceAll(web, "name: web", "name: second"))
	c.sees(p, "a pod of after the restart is known, and nothing is wrong", func() bool { return len(c.pods) == 2 && len(c.problems) == 0 })

	// Changes that the watch cannot tell any more: the history is compacted.
	p.StopAPI()
	p.StartAPI()
	p.Kubectl("", "delete", "-n", "shop", "pod", "second", "--force", "--grace-period=0")
	p.Compact()
	p.StopAPI()
	p.StartAPI()
	p.Apply(strings.ReplaceAll(web, "name: web", "name: third"))
	c.sees(p, "what happened meanwhile is known", func() bool {
		_, second := c.pods[policy.Name{Namespace: "shop", Name: "second"}]
		return len(c.pods) == 2 && !second && len(c.problems) == 0
	})
	now, wholes := base()
	if now-gone != 1 || wholes != 1 {
		t.Errorf("%d objects were said to be gone and %d Updates were whole, want 1 and 1: nothing but a pod went", now-gone, wholes)
	}
	p.Until("nothing is behind any more", func() error {
		if st := c.Status(); st.Lag != 0 {
			return fmt.Errorf("the status is %+v", st)
		}
		return nil
	})
}

func TestRights(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	rules := p.Kubectl("", "get", "clusterrole", "podwall", "-o", "json")
	p.Kubectl("", "patch", "clusterrole", "podwall", "--type=json", "-p", `[{"op":"replace","path":"/rules","value":[{"apiGroups":[""],"resources":["pods","namespaces","nodes","services"],"verbs":["get","list","watch"]}]}]`)
	c := follow(t, own(p))
	c.sees(p, "what is missing is said by name", func() bool {
		return c.unknown != "" && c.problem("networkpolicies.networking.k8s.io") && c.problem(`cannot watch resource "networkpolicies"`) && c.problem("endpointslices.discovery.k8s.io")
	})
	t.Log(c.problems)
	if c.wholes > 0 && c.unknown == "" {
		t.Error("without policies it published a world")
	}
	p.Kubectl(rules, "replace", "--force", "-f", "-")
	c.sees(p, "with the right the shop is known", func() bool { return c.unknown == "" && len(c.policies) == 1 && len(c.problems) == 0 })

	p.Kubectl("", "patch", "clusterrole", "podwall", "--type=json", "-p", `[{"op":"replace","path":"/rules","value":[{"apiGroups":[""],"resources":["pods","namespaces","nodes","services"],"verbs":["get","list","watch"]}]}]`)
	p.StopAPI()
	p.StartAPI()
	c.sees(p, "a right that was taken away is said", func() bool { return c.problem("networkpolicies.networking.k8s.io") })
	if len(c.policies) != 1 {
		t.Error("a kind that may not be read any more was forgotten")
	}
}

func TestCredentials(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	s := &Source{Kubeconfig: p.Path("late.kubeconfig")}
	c := follow(t, s)
	c.sees(p, "a kubeconfig that is not there is said", func() bool { return strings.Contains(c.unknown, "no such file") })
	p.Write("late.kubeconfig", "clusters: [{")
	c.sees(p, "one that is none is said", func() bool {
		return strings.Contains(c.unknown, "late.kubeconfig") && strings.Contains(c.unknown, "yaml")
	})
	p.Kubeconfig("late.kubeconfig", p.URL(), "no-such-token")
	c.sees(p, "a wrong token is said", func() bool { return strings.Contains(c.unknown, "does not accept the credentials of") })
	t.Log(c.unknown)
	p.Kubeconfig("late.kubeconfig", p.URL(), plane.OwnToken)
	c.sees(p, "with the right one the shop is known", func() bool { return c.unknown == "" && len(c.policies) == 1 && len(c.problems) == 0 })
}

func TestLearn(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.pods) == 1 })
	uid := func(name string) string {
		return p.Kubectl("", "get", "-n", "shop", "pod", name, "-o", "jsonpath={.metadata.uid}")
	}
	ctx := t.Context()
	if err := c.Learn(ctx, "shop", "web", uid("web")); err != nil {
		t.Errorf("a pod that is known: %v", err)
	}
	for _, name := range []string{"web", "ghost"} {
		if err := c.Learn(ctx, "shop", name, "0000"); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("pod %s of a UID that is none: %v, want %v", name, err, api.ErrUnavailable)
		} else {
			t.Log(err)
		}
	}
	// The same name again: the watch may be behind, and the labels are the new pod's.
	for i := range 20 {
		old := uid("web")
		p.Kubectl("", "delete", "-n", "shop", "pod", "web", "--force", "--grace-period=0")
		p.Apply(strings.Replace(web, "app: web", fmt.Sprintf("app: web, turn: n%d", i), 1))
		id := uid("web")
		if id == old {
			t.Fatal("it is the same pod")
		}
		if err := c.Learn(ctx, "shop", "web", id); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		if got := c.pods[webPod]; got.UID != id || got.Labels["turn"] != fmt.Sprintf("n%d", i) {
			t.Errorf("after Learn the pod published is %+v", got)
		}
		c.mu.Unlock()
	}
	p.Apply(`
apiVersion: v1
kind: Pod
metadata:
  name: static-node-1
  namespace: shop
  annotations: {kubernetes.io/config.mirror: 0123456789abcdef, kubernetes.io/config.hash: 0123456789abcdef, kubernetes.io/config.source: file}
spec:
  nodeName: node-1
  containers: [{name: c, image: c}]
`)
	if err := c.Learn(ctx, "shop", "static-node-1", "0123456789abcdef"); err != nil {
		t.Errorf("a static pod, by the UID that its node knows: %v", err)
	}
}

// An API server of before WatchList sends lists, and the rest is the same.
func TestOlderServer(t *testing.T) {
	p := plane.New(t, "--feature-gates=WatchList=false")
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.pods) == 1 && len(c.policies) == 1 && len(c.problems) == 0 })
	p.StopAPI()
	p.StartAPI()
	p.Apply(strings.ReplaceAll(web, "name: web", "name: second"))
	p.Kubectl("", "delete", "-n", "shop", "networkpolicy", "web")
	c.sees(p, "what changed is known", func() bool { return len(c.pods) == 2 && len(c.policies) == 0 && len(c.problems) == 0 })
	if c.wholes != 1 || c.gone != 1 {
		t.Errorf("%d whole Updates and %d gone, want 1 and 1", c.wholes, c.gone)
	}
}

// Where the watch is late with a pod it may be late with the policies that were made
// before it: Learn brings both.
func TestLearnPolicies(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	w := newWire(t, strings.TrimPrefix(p.URL(), "https://"))
	c := follow(t, &Source{Kubeconfig: p.Kubeconfig("wire.kubeconfig", "https://"+w.listener.Addr().String(), plane.OwnToken)})
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.pods) == 1 })
	// The stream is held up; who asks goes another way.
	c.dial.mu.Lock()
	c.dial.kubeconfig = p.Kubeconfig("own.kubeconfig", p.URL(), plane.OwnToken)
	c.dial.mu.Unlock()
	w.set(true)
	p.Apply(strings.NewReplacer("name: web", "name: late").Replace(shop))
	uid := p.Kubectl("", "get", "-n", "shop", "pod", "late", "-o", "jsonpath={.metadata.uid}")
	if err := c.Learn(t.Context(), "shop", "late", uid); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	_, there := c.policies[ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "late"}]
	_, pod := c.pods[policy.Name{Namespace: "shop", Name: "late"}]
	c.mu.Unlock()
	if !there || !pod {
		t.Errorf("after Learn the pod is known: %v, its policy: %v", pod, there)
	}
	w.set(false)
	c.sees(p, "the stream agrees", func() bool { return len(c.pods) == 2 && len(c.policies) == 2 && c.gone == 0 })
}

// A policy that the namespace controller deletes before the pods stays with them.
func TestTerminatingNamespace(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.policies) == 1 })
	// There is no namespace controller here: it stays terminating until finalized.
	p.Kubectl("", "delete", "namespace", "shop", "--wait=false")
	p.Kubectl("", "delete", "-n", "shop", "networkpolicy", "web")
	c.sees(p, "the policy is said to stay", func() bool { return c.problem("it stays until the namespace is gone") })
	if len(c.policies) != 1 {
		t.Error("the policy is gone")
	}
	p.Kubectl("", "delete", "-n", "shop", "pod", "web", "--force", "--grace-period=0")
	p.Kubectl(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"},"spec":{"finalizers":[]}}`, "replace", "--raw", "/api/v1/namespaces/shop/finalize", "-f", "-")
	c.sees(p, "it goes with the namespace", func() bool { return len(c.policies) == 0 && c.namespaces["shop"].Name == "" })
}

func TestEvents(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return c.wholes == 1 && len(c.policies) == 1 })
	notices := []Notice{
		{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", Reason: "NotHonoured", Note: "spec.ingress[0]: " + strings.Repeat("x", 2000)},
		{Kind: "Pod", Namespace: "shop", Name: "web", UID: c.pods[webPod].UID, Reason: "Unprotected", Note: "its traffic does not pass the rules"},
		{Kind: "Pod", Namespace: "ghosts", Name: "web", UID: "1", Reason: "Unprotected", Note: "in a namespace that is gone"},
	}
	other := own(p)
	other.Node, other.Log = "node-2", c.Log
	for range 3 { // again, and by another node, is the same
		for _, s := range []*Source{c.Source, other} {
			if err := s.Announce(t.Context(), notices); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := p.Kubectl("", "get", "events", "-A", "--no-headers")
	if n := strings.Count(out, "\n"); n != 2 {
		t.Errorf("%d events, want one on the policy and one on the pod:\n%s", n, out)
	}
	if out := p.Kubectl("", "describe", "-n", "shop", "pod", "web"); !strings.Contains(out, "Unprotected") {
		t.Errorf("kubectl describe pod shows no event: %s", out)
	}
	for _, e := range c.announcer.events { // half an hour later
		e.at = e.at.Add(-repeatEvery)
	}
	if err := c.Announce(t.Context(), notices); err != nil {
		t.Fatal(err)
	}
	out = p.Kubectl("", "get", "-n", "shop", "events.events.k8s.io", "-o", "jsonpath={.items[*].series.count}")
	if out != "2 2" {
		t.Errorf("series after a renewal %q, want 2 2", out)
	}
	var many []Notice
	for i := range 200 {
		many = append(many, Notice{Kind: "Pod", Namespace: "shop", Name: "web", Reason: "Error", Note: fmt.Sprint("cause ", i)})
	}
	if err := c.Announce(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(p.Kubectl("", "get", "events", "-A", "--no-headers"), "\n"); n > 2+eventBurst {
		t.Errorf("%d events at once, want at most %d", n, 2+eventBurst)
	}
}
