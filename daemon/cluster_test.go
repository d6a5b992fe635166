//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/plane"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
)

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: kata}
handler: kata
---
apiVersion: v1
kind: Node
metadata: {name: here}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: fe}}}]}]
---
`

func podYAML(name, app, node string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, labels: {app: %s}}\nspec:\n  nodeName: %s\n  containers: [{name: c, image: c}]\n---\n", name, app, node)
}

// A site is a podwalld that follows a control plane, and pods on its node.
type site struct {
	t *testing.T
	*plane.Plane
	place
	client api.Client
}

func newSite(t *testing.T) *site {
	s := &site{t: t, Plane: plane.New(t), place: newPlace(t)}
	s.client.Socket = s.socket()
	return s
}

func (s *site) start() *running {
	s.t.Helper()
	r := start(s.t, []string{"--socket", s.socket(), "--state-dir", filepath.Join(s.dir, "state"), "--cni-cache-dir", filepath.Join(s.dir, "cni"),
		"--metrics-address", "", "--node-name", "here", "--sandboxed-pods", "report", "--tamper-protection", "off",
		"--kubeconfig", s.Kubeconfig("podwalld.kubeconfig", s.URL(), plane.OwnToken)})
	if err := s.ready(s.t); err != nil {
		s.t.Fatalf("%v; log:\n%s", err, r.log)
	}
	return r
}

func (s *site) status() (st api.Status) {
	s.t.Helper()
	if err := s.client.Call(s.t.Context(), api.VerbStatus, nil, &st, nil); err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *site) uid(name string) string {
	return s.Kubectl("", "get", "-n", "shop", "pod", name, "-o", "jsonpath={.metadata.uid}")
}

// add does what the plugin does, for the sandbox id of pod shop/name.
func (s *site) add(p *netnstest.Pod, id, name, uid string) error {
	f, err := os.Open(p.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	a := api.Attachment{Key: api.Key{ContainerID: id, Interface: "eth0"}, Netns: p.Path(), Network: "net", Namespace: "shop", Name: name, UID: uid,
		Addresses: []netip.Addr{p.IP4, p.IP6}}
	adding, err := s.client.Add(ctx, a, f)
	if err != nil {
		return err
	}
	defer adding.Close()
	now, _, err := nft.Apply(p.FD(), "eth0", adding.Rules, nil)
	if err != nil {
		return err
	}
	return adding.Applied(ctx, api.Applied{Epoch: now.Epoch, Generation: now.Generation, Others: now.Others})
}

func (s *site) mustAdd(p *netnstest.Pod, id, name string) {
	s.t.Helper()
	if err := s.add(p, id, name, s.uid(name)); err != nil {
		s.t.Fatalf("ADD of %s: %v", name, err)
	}
}

// The daemon on a real control plane: pods' packets meet what the API server says,
// and local news are there before it says them.
func TestCluster(t *testing.T) {
	s := newSite(t)
	s.Apply(shop + podYAML("web", "web", "here") + podYAML("fe", "fe", "here"))
	r := s.start()
	lab := netnstest.Bridge(t, 4)
	web, fe, stranger, other := lab.Pods[0], lab.Pods[1], lab.Pods[2], lab.Pods[3]
	web.Echo(t, "tcp", web.Addr4(80))
	from := func(p *netnstest.Pod) netnstest.Flow {
		return netnstest.Flow{From: p.NS, Network: "tcp", To: web.Addr4(80)}
	}
	netnstest.MustBlock(t, func() { s.mustAdd(web, "web-1", "web") }, from(fe), from(stranger))

	// Its address is nowhere in the API; with the end of its ADD it may call.
	s.mustAdd(fe, "fe-1", "fe")
	if got, err := fe.Connect(web.Addr4(80)); err != nil || got != netnstest.Answered {
		t.Errorf("the first packet of a pod that policy allows: %s, %v", got, err)
	}
	// A pod that was made this moment: its labels count, or it does not start.
	s.Apply(podYAML("late", "fe", "here"))
	s.mustAdd(other, "late-1", "late")
	from(other).MustPass(t)
	if err := s.add(stranger, "ghost-1", "ghost", "0000"); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("ADD of a pod that the API server does not have: %v, want %v", err, api.ErrUnavailable)
	}

	// A pod elsewhere comes, and is done: its address is another's by now (E3).
	s.Apply(podYAML("far", "fe", "there"))
	status := fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}]}}`, stranger.IP4, stranger.IP4)
	s.Kubectl("", "patch", "-n", "shop", "pod", "far", "--subresource=status", "-p", status)
	from(stranger).MustPass(t)
	s.Kubectl("", "patch", "-n", "shop", "pod", "far", "--subresource=status", "-p", strings.Replace(status, "Running", "Succeeded", 1))
	netnstest.Eventually(t, func() error {
		if got, err := stranger.Connect(web.Addr4(80)); err != nil || got != netnstest.Silent {
			return fmt.Errorf("from the address of a pod that is done: %s, %v", got, err)
		}
		return nil
	})

	// The node's address changes (E19).
	for _, addr := range []string{"198.51.100.7", "198.51.100.8"} {
		s.Kubectl("", "patch", "node", "here", "--subresource=status", "-p", `{"status":{"addresses":[{"type":"InternalIP","address":"`+addr+`"}]}}`)
		netnstest.Eventually(t, func() error {
			if out := web.Run(t, "nft list table inet podwall"); !strings.Contains(out, addr) || strings.Contains(out, "198.51.100.7") != (addr == "198.51.100.7") {
				return fmt.Errorf("the pod's rules don't follow the node to %s", addr)
			}
			return nil
		})
	}
	if st := s.status(); st.Source.Kind != "kubernetes" || st.Source.HeardAt.IsZero() || !st.Source.KnownAt.IsZero() || len(st.Problems) > 0 {
		t.Errorf("status %+v", st)
	}
	if status, took := r.stop(); status != 0 || took > 3*time.Second {
		t.Errorf("exit status %d after %s", status, took)
	}
}

// Without the API server the node goes on with what it knew, also over a start.
func TestClusterAway(t *testing.T) {
	s := newSite(t)
	s.Apply(shop + podYAML("web", "web", "here") + podYAML("fe", "fe", "here"))
	r := s.start()
	lab := netnstest.Bridge(t, 3)
	web, fe, stranger := lab.Pods[0], lab.Pods[1], lab.Pods[2]
	web.Echo(t, "tcp", web.Addr4(80))
	from := func(p *netnstest.Pod) netnstest.Flow {
		return netnstest.Flow{From: p.NS, Network: "tcp", To: web.Addr4(80)}
	}
	netnstest.MustBlock(t, func() { s.mustAdd(web, "web-1", "web") }, from(stranger))
	uid := s.uid("fe")
	time.Sleep(5 * time.Second) // until it is stored
	s.StopAPI()
	r.stop()
	r = s.start()
	if st := s.status(); !st.Ready || st.Source.KnownAt.IsZero() || st.Source.Lag == 0 || len(st.Problems) == 0 {
		t.Errorf("status %+v", st)
	} else {
		t.Log(st.Problems)
	}
	from(stranger).MustBe(t, netnstest.Silent)
	if err := s.add(fe, "fe-2", "fe", uid); err != nil {
		t.Errorf("ADD of a pod that was known: %v", err)
	}
	from(fe).MustPass(t)
	if err := s.add(stranger, "new-1", "new", "1"); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("ADD of a pod that was not: %v, want %v", err, api.ErrUnavailable)
	}
	s.StartAPI()
	netnstest.Eventually(t, func() error {
		if st := s.status(); !st.Source.KnownAt.IsZero() || len(st.Problems) > 0 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	from(fe).MustPass(t)
	from(stranger).MustBe(t, netnstest.Silent)
}

// What is not as it should be is an Event where people look.
func TestClusterEvents(t *testing.T) {
	s := newSite(t)
	s.Apply(shop + podYAML("web", "web", "here") + strings.Replace(podYAML("vm", "fe", "here"), "spec:\n", "spec:\n  runtimeClassName: kata\n", 1))
	s.start()
	lab := netnstest.Bridge(t, 1)
	s.mustAdd(lab.Pods[0], "vm-1", "vm")
	s.Until("there is an event", func() error {
		out := s.Kubectl("", "describe", "-n", "shop", "pod", "vm")
		if !strings.Contains(out, "FirewallUnprotected") || !strings.Contains(out, "runtime class kata") {
			return fmt.Errorf("kubectl describe pod: %s", out)
		}
		return nil
	})
}
