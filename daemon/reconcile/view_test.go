package reconcile

import (
	"errors"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestInspect(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	for _, name := range []string{"shop/web", "of-web", "of"} {
		list, err := b.Inspect(api.InspectRequest{Pod: name})
		if err != nil || len(list) != 1 {
			t.Fatalf("inspect %s: %d attachments, %v", name, len(list), err)
		}
		in := list[0]
		if !in.Isolation.Ingress || in.Isolation.Egress || len(in.Policies) != 1 || in.Status.State != api.StateEnforced || !in.Kernel.InSync {
			t.Errorf("inspect %s: %+v", name, in)
		}
	}
	for _, req := range []api.InspectRequest{{}, {Pod: "shop/ghost"}, {Pod: "shop/web", Interface: "net1"}} {
		if _, err := b.Inspect(req); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("inspect %+v: %v, want not found", req, err)
		}
	}
	b.kernel.put(inode(ns.FD()), "eth0", ruleset.RuleSet{}, nil)
	list, err := b.Inspect(api.InspectRequest{Pod: "shop/web"})
	if err != nil || list[0].Kernel.InSync || len(list[0].Kernel.Differences) == 0 {
		t.Errorf("after somebody changed the rules: %+v, %v", list[0].Kernel, err)
	}
	ns.Close()
	list, err = b.Inspect(api.InspectRequest{Pod: "shop/web"})
	if err != nil || list[0].Kernel.Error == "" || list[0].Kernel.InSync {
		t.Errorf("after its namespace went: %+v, %v", list[0].Kernel, err)
	}
}

// Comparing what a round is just replacing would find differences that are none.
func TestCheckDuringARound(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, a)
	checked := make(chan error, 1)
	b.kernel.after = func(uint64, ruleset.RuleSet) error { // the kernel has the new rules, the Keeper does not know it
		b.kernel.after = nil
		go func() { checked <- b.Check(a.Key, nil) }()
		select {
		case err := <-checked:
			t.Errorf("CHECK did not wait for the transaction's end: %v", err)
			checked <- nil
		case <-time.After(20 * time.Millisecond):
		}
		return nil
	}
	front := netnstest.New(t)
	ad, err := b.Begin(pod(front, "fe", "10.0.0.3"), fd(t, front))
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Abort()
	b.round(t.Context())
	if err := <-checked; err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

func TestCheckOfWhatIsNotEnforced(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	if err := b.Check(a.Key, nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("CHECK of nobody: %v, want not found", err)
	}
	ad, err := b.Begin(a, fd(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	defer ad.Abort()
	if err := b.Check(a.Key, nil); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("CHECK in the middle of ADD: %v, want unavailable", err)
	}
}

func TestLists(t *testing.T) {
	b := newBench(t)
	web, front := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	b.add(t, front, pod(front, "fe", "10.0.0.3"))
	pods := b.Pods()
	if len(pods) != 2 || pods[0].Name != "fe" || pods[0].Policies != 0 || pods[1].Policies != 1 || !pods[1].Isolation.Ingress {
		t.Errorf("pods = %+v", pods)
	}
	policies := b.Policies()
	if len(policies) != 1 || len(policies[0].Pods) != 1 || policies[0].Pods[0] != "shop/web" {
		t.Errorf("policies = %+v", policies)
	}
	verdict, err := b.Explain(api.ExplainRequest{From: "shop/fe", To: "shop/web", Port: 80, Protocol: ruleset.TCP})
	if err != nil || verdict.Verdict != "Allow" {
		t.Errorf("explain = %+v, %v", verdict, err)
	}
	if _, err := New().Explain(api.ExplainRequest{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("explain before the source has spoken: %v", err)
	}
}
