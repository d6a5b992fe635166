package reconcile

import (
	"errors"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/policy"
)

func TestWhoseTablesAreOwned(t *testing.T) {
	unknown, granted, not := policy.Pod{}, policy.Pod{NetAdmin: policy.Granted}, policy.Pod{NetAdmin: policy.NotGranted}
	tests := []struct {
		tamper                daemonconf.TamperProtection
		unknown, granted, not bool
	}{
		{daemonconf.TamperOn, true, true, true},
		{daemonconf.TamperAuto, true, true, false},
		{daemonconf.TamperOff, false, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.tamper.String(), func(t *testing.T) {
			p := Protection{Tamper: tt.tamper}
			if p.owns(unknown) != tt.unknown || p.owns(granted) != tt.granted || p.owns(not) != tt.not {
				t.Errorf("owned: %v where the capability is unknown, %v granted, %v not granted; want %+v",
					p.owns(unknown), p.owns(granted), p.owns(not), tt)
			}
		})
	}
	if !(Protection{}).owns(not) {
		t.Error("the zero Protection owns less than it could")
	}
}

// What the manifests and the configuration say about a pod is in its next rules.
func TestOwnershipFollowsTheWorld(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	grant := func(g policy.Grant) func() {
		return func() { b.Update(world(func(p *policy.Pod) { p.NetAdmin = g })) }
	}
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"the configuration says auto", func() { b.SetProtection(Protection{Tamper: daemonconf.TamperAuto}) }, true},
		{"the specification grants nothing", grant(policy.NotGranted), false},
		{"the specification grants NET_ADMIN", grant(policy.Granted), true},
		{"the configuration says off", func() { b.SetProtection(Protection{Tamper: daemonconf.TamperOff}) }, false},
	} {
		step.do()
		b.round(t.Context())
		if got := b.kernel.rules(inode(ns.FD()), "eth0").Owned; got != step.want {
			t.Errorf("when %s: owned = %v, want %v", step.name, got, step.want)
		}
	}
}

// world is the shop whose web was changed.
func world(change func(*policy.Pod)) source.Update {
	s := shop(fe)
	change(&s.Pods[0])
	return everything(s)
}

// summary is how `policyctl get pods` shows the only pod.
func (b *bench) summary(t *testing.T) api.AttachmentStatus {
	t.Helper()
	pods := b.Pods()
	if len(pods) != 1 {
		t.Fatalf("%d pods, want one", len(pods))
	}
	in, err := b.Inspect(api.InspectRequest{Pod: pods[0].Pod()})
	if err != nil || len(in) != 1 || in[0].Status != pods[0].Status {
		t.Fatalf("inspect says %+v, %v; get pods %+v", in, err, pods[0].Status)
	}
	if n := b.Counts(); n[pods[0].Status.State] != 1 {
		t.Errorf("status counts %v, get pods says %s", n, pods[0].Status.State)
	}
	return pods[0].Status
}

// Whole frames need the conflist's word, or the pod's where the daemon takes it.
func TestRawSockets(t *testing.T) {
	raw := []string{daemonconf.AnnotationRawSockets}
	tests := []struct {
		name       string
		conflist   bool
		annotation bool
		permitted  []string
		want       bool
		problem    bool
	}{
		{"nobody asks", false, false, raw, false, false},
		{"the conflist allows it", true, false, nil, true, false},
		{"the pod asks and may", false, true, raw, true, false},
		{"the pod asks and may not", false, true, nil, false, true},
		{"the pod asks in vain for what the conflist allows", true, true, nil, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.SetProtection(Protection{Tamper: daemonconf.TamperOff, Annotations: tt.permitted})
			b.Update(world(func(p *policy.Pod) { p.RawSockets = tt.annotation }))
			ns := netnstest.New(t)
			a := pod(ns, "web", "10.0.0.2")
			a.RawSockets = tt.conflist
			b.add(t, ns, a)
			if got := b.kernel.rules(inode(ns.FD()), "eth0").RawSockets; got != tt.want {
				t.Errorf("raw sockets: %v, want %v", got, tt.want)
			}
			_, _, problems := b.Source()
			if (len(problems) == 1) != tt.problem || len(problems) > 1 {
				t.Errorf("problems: %v", problems)
			}
			if tt.problem && problems[0].String() != "Pod shop/web: metadata.annotations[podwall.io/raw-sockets]: not honoured on this node: podAnnotations does not list raw-sockets" {
				t.Errorf("problem: %s", problems[0])
			}
			if r := restarted(t, b); r.attachments[a.Key].record.RawSockets != tt.conflist {
				t.Error("the conflist's word is lost with a restart")
			}
		})
	}
}

func TestSandboxedRuntimes(t *testing.T) {
	p := Protection{Sandboxed: daemonconf.Default().SandboxedRuntimes}
	for class, want := range map[string]bool{
		"": false, "runc": false, "kata": true, "kata-qemu": true, "katana": false, "my-kata": false,
		"gvisor": true, "runsc": true, "runsc-kvm": false,
	} {
		if _, got := p.sandboxed(policy.Pod{RuntimeClass: class}); got != want {
			t.Errorf("runtime class %q is sandboxed: %v, want %v", class, got, want)
		}
	}
	if _, got := (Protection{Sandboxed: []string{"*"}}).sandboxed(policy.Pod{}); got {
		t.Error("a pod of the node's own runtime is of no class")
	}
}

func kata(p *policy.Pod) { p.RuntimeClass = "kata-qemu" }

func TestSandboxedPodIsRefused(t *testing.T) {
	b := newBench(t)
	defer b.rounds(t)()
	b.SetProtection(Protection{Sandboxed: []string{"kata-*"}})
	b.Update(world(kata))
	ns := netnstest.New(t)
	a := pod(ns, "web", "10.0.0.2")
	err := b.tryAdd(t, ns, a)
	if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "runtime class kata-qemu") {
		t.Errorf("ADD: %v, want an invalid request that names the runtime class", err)
	}
	if b.Knows(a.Key) || b.store.has(a.Key) || descriptors(t, ns) != 0 {
		t.Error("the refused ADD left something")
	}
}

// Whoever says report gets the pod, its rules, and the truth about it.
func TestSandboxedPodIsReported(t *testing.T) {
	b := newBench(t)
	report := Protection{Sandboxed: []string{"kata-*"}, SandboxedPods: daemonconf.SandboxedReport}
	b.SetProtection(report)
	b.Update(world(kata))
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	if s := b.summary(t); s.State != api.StateUnprotected || !strings.Contains(s.Message, "runtime class kata-qemu") {
		t.Errorf("status %+v, want Unprotected with the runtime class", s)
	}
	if b.kernel.rules(inode(ns.FD()), "eth0").Addresses == nil {
		t.Error("no rules are installed")
	}
	if err := b.Check(pod(ns, "web", "10.0.0.2").Key, nil); err != nil {
		t.Errorf("CHECK: %v; its rules stand", err)
	}
	report.Sandboxed = nil
	b.SetProtection(report)
	b.round(t.Context())
	if s := b.summary(t); s.State != api.StateEnforced || s.Message != "" {
		t.Errorf("status %+v after the class was taken from the list, want Enforced", s)
	}
}

// A pod whose manifest comes after it, or whose devices do, can't be refused any
// more.
func TestSandboxedPodIsFoundLater(t *testing.T) {
	for name, find := range map[string]func(b *bench){
		"by its manifest": func(b *bench) { b.Update(world(kata)) },
		"by its devices": func(b *bench) {
			b.Kernel.Bypass = func(int, string) (string, error) { return "redirected to tap0_kata", nil }
			b.sweep(t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.SetProtection(Protection{Sandboxed: []string{"kata-*"}})
			b.Update(world(func(*policy.Pod) {}))
			ns := netnstest.New(t)
			b.add(t, ns, pod(ns, "web", "10.0.0.2"))
			if s := b.summary(t); s.State != api.StateEnforced {
				t.Fatalf("at first %+v", s)
			}
			find(b)
			b.round(t.Context())
			if s := b.summary(t); s.State != api.StateUnprotected || !strings.Contains(s.Message, "kata") {
				t.Errorf("status %+v, want Unprotected", s)
			}
		})
	}
}

// What is not known is not taken back.
func TestBypassThatCantBeLookedFor(t *testing.T) {
	b := newBench(t)
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	b.Kernel.Bypass = func(int, string) (string, error) { return "seen", nil }
	b.sweep(t.Context())
	b.round(t.Context())
	b.Kernel.Bypass = func(int, string) (string, error) { return "", errInjected }
	b.sweep(t.Context())
	b.round(t.Context())
	if s := b.summary(t); s.State != api.StateUnprotected {
		t.Errorf("status %+v, want Unprotected as long as nobody has seen otherwise", s)
	}
	b = restarted(t, b)
	b.Update(everything(shop(fe)))
	b.round(t.Context())
	if s := b.summary(t); s.State != api.StateUnprotected {
		t.Errorf("status %+v after a restart, want Unprotected from the first round on", s)
	}
}

// Where the kernel can't do what was asked, it is not asked, and people are told.
func TestKernelThatLacksSomething(t *testing.T) {
	for _, lacks := range []bool{false, true} {
		b := newBench(t)
		b.SetProtection(Protection{Tamper: daemonconf.TamperOn})
		b.Kernel.NoGuard, b.Kernel.NoOwner = lacks, lacks
		ns := netnstest.New(t)
		b.add(t, ns, pod(ns, "web", "10.0.0.2"))
		rs := b.kernel.rules(inode(ns.FD()), "eth0")
		if rs.RawSockets != lacks || rs.Owned == lacks {
			t.Errorf("lacking: %v; raw sockets %v, owned %v", lacks, rs.RawSockets, rs.Owned)
		}
		s := b.summary(t)
		told := strings.Contains(s.Message, "netdev egress hook") && strings.Contains(s.Message, "owner and persist")
		if s.State != api.StateEnforced || told != lacks {
			t.Errorf("lacking: %v; status %+v", lacks, s)
		}
	}
}
