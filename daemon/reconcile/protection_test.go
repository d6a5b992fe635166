package reconcile

import (
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/daemon/source"
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
	world := func(g policy.Grant) func() {
		return func() {
			s := shop(fe)
			s.Pods[0].NetAdmin = g
			b.SetWorld(source.World{Snapshot: s})
		}
	}
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"the configuration says auto", func() { b.SetProtection(Protection{Tamper: daemonconf.TamperAuto}) }, true},
		{"the specification grants nothing", world(policy.NotGranted), false},
		{"the specification grants NET_ADMIN", world(policy.Granted), true},
		{"the configuration says off", func() { b.SetProtection(Protection{Tamper: daemonconf.TamperOff}) }, false},
	} {
		step.do()
		b.round(t.Context())
		if got := b.kernel.rules(inode(ns.FD()), "eth0").Owned; got != step.want {
			t.Errorf("when %s: owned = %v, want %v", step.name, got, step.want)
		}
	}
}
