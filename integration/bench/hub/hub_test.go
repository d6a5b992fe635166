package hub

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/kube"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}}
}

// podwalld's own source takes a Hub for an API server.
func TestSourceFollowsHub(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Serve(l, Objects{
		"namespaces": func(yield func(runtime.Object) bool) {
			yield(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}})
		},
		"pods": func(yield func(runtime.Object) bool) { _ = yield(pod("web")) && yield(pod("db")) },
		"networkpolicies": func(yield func(runtime.Object) bool) {
			yield(&netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "deny"}})
		},
	}, func(string, string) runtime.Object { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	updates := follow(t, l.Addr().String())

	first := next(t, updates)
	if !first.Whole || len(first.Set.Pods) != 2 || len(first.Set.Namespaces) != 1 || len(first.Set.Policies) != 1 {
		t.Errorf("first update is %+v, want all there is", first)
	}
	if _, ok := h.Delivered(); !ok || h.Sent() < 200 {
		t.Errorf("after it, %d bytes are sent and all of them: %v", h.Sent(), ok)
	}
	h.Tell(watch.Added, pod("late"))
	if u := next(t, updates); u.Whole || len(u.Set.Pods) != 1 || u.Set.Pods[0].Name != "late" || u.Set.Pods[0].Labels["app"] != "late" {
		t.Errorf("a pod that comes is the update %+v", u)
	}
	h.Tell(watch.Deleted, pod("late"))
	if u := next(t, updates); u.Whole || len(u.Gone.Pods) != 1 || u.Gone.Pods[0].Name != "late" {
		t.Errorf("a pod that goes is the update %+v", u)
	}
}

// follow runs a source until the test ends.
func follow(t *testing.T, address string) <-chan source.Update {
	t.Helper()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"http://%s\"}}]\n"+
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n", address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &kube.Source{Kubeconfig: config, Node: "node", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	updates, done := make(chan source.Update, 100), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(u source.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return updates
}

// next is the next update that says something.
func next(t *testing.T, updates <-chan source.Update) source.Update {
	t.Helper()
	for {
		select {
		case u := <-updates:
			if u.Unknown == "" && (u.Whole || len(u.Set.Pods)+len(u.Gone.Pods) > 0) {
				return u
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no update came")
		}
	}
}
