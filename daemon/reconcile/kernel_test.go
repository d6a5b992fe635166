package reconcile

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

// onKernel is a bench in front of the kernel of this machine.
func onKernel(t *testing.T) *bench {
	b := newBench(t)
	b.Kernel = RealKernel
	return b
}

// addReal adds a pod as the plugin does.
func (b *bench) addReal(t *testing.T, p *netnstest.Pod, name string) api.Attachment {
	t.Helper()
	defer b.rounds(t)()
	a := pod(p.NS, name, p.IP4.String())
	a.Addresses = append(a.Addresses, p.IP6)
	ad, err := b.Begin(a, fd(t, p.NS))
	if err != nil {
		t.Fatal(err)
	}
	now, _, err := b.Kernel.Apply(p.FD(), "eth0", ad.Rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ad.Finish(t.Context(), api.Applied{Epoch: now.Epoch, Generation: now.Generation, Others: now.Others}); err != nil {
		t.Fatal(err)
	}
	return a
}

// list is podwall's table as nft lists it without counts, with the handles that a rewritten
// object would change.
func list(t *testing.T, p *netnstest.Pod) string {
	t.Helper()
	return p.Run(t, "nft -a -s list table inet podwall")
}

// What stands in the kernel is left alone by a restart, also after somebody else
// has used nftables in the pod, and is repaired if it is podwall's that they
// changed.
func TestRealKernelAcrossRestarts(t *testing.T) {
	lab := netnstest.Bridge(t, 1)
	p := lab.Pods[0]
	b := onKernel(t)
	a := b.addReal(t, p, "web")
	before := list(t, p)
	restart := func() {
		t.Helper()
		b = restarted(t, b)
		b.Kernel = RealKernel
		b.Update(everything(shop(fe)))
		if err := b.Refresh(); err != nil {
			t.Fatal(err)
		}
		b.round(t.Context())
		if err := b.Check(a.Key, nil); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	generation := func() uint32 {
		t.Helper()
		g, err := b.Kernel.Generation(p.FD())
		if err != nil {
			t.Fatal(err)
		}
		return g
	}

	g := generation()
	restart()
	if after := list(t, p); after != before || generation() != g {
		t.Errorf("after a restart, generation %d, before %d:\n%s\nbefore:\n%s", generation(), g, after, before)
	}

	p.Run(t, "nft add table inet mesh")
	g = generation()
	restart()
	b.sweep(t.Context())
	b.round(t.Context())
	if after := list(t, p); after != before || generation() != g {
		t.Errorf("after a mesh came, generation %d, before %d:\n%s\nbefore:\n%s", generation(), g, after, before)
	}
	if stored := b.stored(t)[0].Generation; stored != g {
		t.Errorf("stored generation = %d, want the mesh's %d", stored, g)
	}

	p.Run(t, "nft flush table inet podwall")
	restart()
	if after := list(t, p); !strings.Contains(after, "shop/web") {
		t.Errorf("the flushed table is not repaired:\n%s", after)
	}
}

// A remote pod that comes and goes is in the rules and out of them.
func TestRealKernelFollowsTheWorld(t *testing.T) {
	lab := netnstest.Bridge(t, 1)
	p := lab.Pods[0]
	b := onKernel(t)
	b.addReal(t, p, "web")
	remote := fe
	remote.Addresses = []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	for _, there := range []bool{false, true, false} {
		s := shop()
		if there {
			s = shop(remote)
		}
		b.Update(everything(s))
		b.round(t.Context())
		if got := strings.Contains(list(t, p), "10.9.9.9"); got != there {
			t.Errorf("10.9.9.9 is in the rules: %v, want %v\n%s", got, there, list(t, p))
		}
	}
}

// An owned pod's rules are the daemon's alone while it runs, survive it, and are
// put right and owned again by the next one.
func TestRealKernelOwnsWhatItShould(t *testing.T) {
	lab := netnstest.Bridge(t, 1)
	p := lab.Pods[0]
	b := onKernel(t)
	b.SetProtection(Protection{Tamper: daemonconf.TamperOn})
	b.addReal(t, p, "web")
	if _, err := p.RunErr("nft flush chain inet podwall eth0/ingress"); err == nil {
		t.Error("the rules were flushed although the daemon owns them")
	}
	for _, o := range b.owners {
		o.Close() // as if the daemon were killed
	}
	p.Run(t, "nft flush chain inet podwall eth0/ingress")
	b = restarted(t, b)
	b.Kernel = RealKernel
	b.SetProtection(Protection{Tamper: daemonconf.TamperOn})
	b.Update(everything(shop(fe)))
	b.round(t.Context())
	if out := p.Run(t, "nft list chain inet podwall eth0/ingress"); !strings.Contains(out, "eth0/ingress/drop") {
		t.Errorf("not repaired after the restart:\n%s", out)
	}
	if _, err := p.RunErr("nft flush chain inet podwall eth0/ingress"); err == nil {
		t.Error("the rules were flushed although the daemon owns them again")
	}
	runtime.KeepAlive(b) // and its socket, which the collector would close
}

// A pod whose specification turns out to grant nothing that could change rules is
// given up by its tables' owner, who is the last to write as such. Policy goes on.
func TestRealKernelIsGivenUpByItsOwner(t *testing.T) {
	lab := netnstest.Bridge(t, 1)
	p := lab.Pods[0]
	b := onKernel(t)
	b.SetProtection(Protection{Tamper: daemonconf.TamperOn})
	b.addReal(t, p, "web")
	b.SetProtection(Protection{Tamper: daemonconf.TamperOff})
	b.round(t.Context())
	for _, want := range []string{"", "10.9.0.3"} {
		if want != "" {
			front := fe
			front.Addresses = []netip.Addr{netip.MustParseAddr(want)}
			b.Update(everything(shop(front)))
			b.round(t.Context())
		}
		if s := b.summary(t); s.State != api.StateEnforced {
			t.Errorf("status %+v, want Enforced", s)
		}
		if out := p.Run(t, "nft list sets inet"); !strings.Contains(out, want) {
			t.Errorf("no set holds %s:\n%s", want, out)
		}
	}
	p.Run(t, "nft flush chain inet podwall eth0/ingress") // as anybody may now
}
