package reconcile

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Ears are a Listener that remembers which namespace it listens to.
type ears struct {
	mu    sync.Mutex
	at    map[api.Key]uint64
	rules map[api.Key]ruleset.RuleSet
	calls int
}

func newEars() *ears { return &ears{at: map[api.Key]uint64{}, rules: map[api.Key]ruleset.RuleSet{}} }

func (e *ears) Listen(a api.Attachment, revision string, rs ruleset.RuleSet, netns int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at[a.Key], e.rules[a.Key] = inode(netns), rs
	e.calls++
	if revision != rs.Revision() {
		panic("revision of other rules")
	}
}

func (e *ears) Forget(key api.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.at, key)
}

// listens returns the namespace that is listened to for a key, or 0.
func (e *ears) listens(key api.Key) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at[key]
}

func TestListenerFollowsAttachments(t *testing.T) {
	b, ears := newBench(t), newEars()
	b.Listener = ears
	first, second := netnstest.New(t), netnstest.New(t)
	web := pod(first, "web", "10.0.0.2")
	b.add(t, first, web)
	if ears.listens(web.Key) != inode(first.FD()) {
		t.Fatal("after ADD nobody listens")
	}
	before := ears.calls
	b.sweep(t.Context())
	if ears.calls == before {
		t.Error("the sweep does not try again")
	}
	again := web
	again.Netns = second.Path()
	b.add(t, second, again)
	if ears.listens(web.Key) != inode(second.FD()) {
		t.Error("after an ADD anew it is listened to the namespace before")
	}
	ad, err := b.Begin(web, fd(t, first))
	if err != nil {
		t.Fatal(err)
	}
	ad.Abort()
	if ears.listens(web.Key) != 0 {
		t.Error("after an ADD that failed somebody listens")
	}
	b.add(t, first, web)
	if err := b.Delete(web.Key); err != nil || ears.listens(web.Key) != 0 {
		t.Errorf("after DEL somebody listens, %v", err)
	}
}

// A late end of an attachment that was replaced does not end the listening for
// the one that replaced it.
func TestListenerOutlivesTheReplaced(t *testing.T) {
	b, ears := newBench(t), newEars()
	b.Listener = ears
	ns := netnstest.New(t)
	web := pod(ns, "web", "10.0.0.2")
	b.add(t, ns, web)
	old := b.attachments[web.Key]
	b.add(t, ns, web)
	if err := b.drop(old); err != nil || ears.listens(web.Key) == 0 {
		t.Errorf("nobody listens to the one that stays, %v", err)
	}
}

func TestWishes(t *testing.T) {
	both := []string{daemonconf.AnnotationAudit, daemonconf.AnnotationObserve}
	tests := []struct {
		name      string
		permitted []string
		pod, ns   policy.Wish
		accepts   bool // logged anyway
		noLog     bool // the kernel can't
		want      bool
		problems  int
	}{
		{"nobody asks", both, policy.NoWish, policy.NoWish, false, false, false, 0},
		{"the pod asks and may", both, policy.Wanted, policy.NoWish, false, false, true, 0},
		{"its namespace asks and may", both, policy.NoWish, policy.Wanted, false, false, true, 0},
		{"the pod does not want what its namespace asks for", both, policy.Unwanted, policy.Wanted, true, false, false, 0},
		{"the pod asks and may not", nil, policy.Wanted, policy.NoWish, false, false, false, 2},
		{"its namespace asks and may not", nil, policy.NoWish, policy.Wanted, false, false, false, 2},
		{"the kernel can't log", both, policy.Wanted, policy.Wanted, true, true, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.Kernel.NoLog = tt.noLog
			b.SetLogging(ruleset.Logging{Accepts: tt.accepts, Rate: 5, Burst: 6})
			b.SetProtection(Protection{Tamper: daemonconf.TamperOff, Annotations: tt.permitted})
			s := shop(fe)
			s.Pods[0].Audit, s.Pods[0].Observe = tt.pod, tt.pod
			s.Namespaces = []policy.Namespace{{Name: "shop", Audit: tt.ns, Observe: tt.ns}}
			b.Update(everything(s))
			ns := netnstest.New(t)
			b.add(t, ns, pod(ns, "web", "10.0.0.2"))
			rs := b.kernel.rules(inode(ns.FD()), "eth0")
			if rs.Audit != tt.want || rs.Log.Accepts != tt.want {
				t.Errorf("audit %v, accepts logged %v; want %v", rs.Audit, rs.Log.Accepts, tt.want)
			}
			if limited := rs.Log.Rate == 5 && rs.Log.Burst == 6; limited != tt.want {
				t.Errorf("logging %+v", rs.Log)
			}
			if _, _, problems := b.Source(); len(problems) != tt.problems {
				t.Errorf("problems %v, want %d", problems, tt.problems)
			}
			if got := b.Audited() == 1; got != tt.want || b.Pods()[0].Audit != tt.want {
				t.Errorf("said to be audited: %v, want %v", got, tt.want)
			}
		})
	}
}

// An audit that begins or ends in a namespace is its pods' at once.
func TestNamespaceBeginsToAsk(t *testing.T) {
	b := newBench(t)
	b.SetProtection(Protection{Tamper: daemonconf.TamperOff, Annotations: []string{daemonconf.AnnotationAudit}})
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	for _, wish := range []policy.Wish{policy.Wanted, policy.NoWish} {
		s := shop(fe)
		s.Namespaces = []policy.Namespace{{Name: "shop", Audit: wish}}
		b.Update(everything(s))
		b.round(t.Context())
		if got := b.kernel.rules(inode(ns.FD()), "eth0").Audit; got != (wish == policy.Wanted) {
			t.Errorf("with wish %d the pod is audited: %v", wish, got)
		}
	}
}

func TestEnd(t *testing.T) {
	b := newBench(t)
	s := shop(fe)
	addr := netip.MustParseAddr
	s.Pods = append(s.Pods,
		policy.Pod{Namespace: "shop", Name: "far", Node: "there", Labels: policy.Labels{"app": "far"}, Addresses: []netip.Addr{addr("10.0.1.7")}},
		policy.Pod{Namespace: "kube", Name: "proxy", Node: "there", HostNetwork: true, Addresses: []netip.Addr{addr("192.0.2.9")}})
	s.Namespaces = []policy.Namespace{{Name: "shop", Labels: policy.Labels{"team": "a"}}}
	s.Nodes = []policy.Node{{Name: "there", Addresses: []netip.Addr{addr("192.0.2.8")}}}
	s.Services = []policy.Service{{Namespace: "shop", Name: "api", Addresses: []netip.Addr{addr("10.96.0.1")}}}
	b.Update(everything(s))
	ns := netnstest.New(t)
	b.add(t, ns, pod(ns, "web", "10.0.0.2"))
	for address, want := range map[string]string{
		"10.0.0.2": "shop/web", "10.0.1.7": "shop/far", "::ffff:10.0.1.7": "shop/far", "192.0.2.9": "node/there", "192.0.2.8": "node/there",
		nodeAddr.String(): "node/here", "10.96.0.1": "svc/shop/api", "198.51.100.1": "",
	} {
		if e := b.End(addr(address)); e.Name() != want || e.Address != addr(address).Unmap() {
			t.Errorf("%s is %q at %s, want %q", address, e.Name(), e.Address, want)
		}
	}
	if e := b.End(addr("10.0.1.7")); e.Labels["app"] != "far" || e.NamespaceLabels["team"] != "a" {
		t.Errorf("labels of shop/far: %v, of its namespace: %v", e.Labels, e.NamespaceLabels)
	}
}
