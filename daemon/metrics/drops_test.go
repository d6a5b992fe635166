package metrics

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
)

// A node is what drops are read from: each pod's packets, dropped by policy on
// their way in.
type node struct {
	packets map[string]uint64
	unread  map[string]bool
	reads   int
}

func (n *node) read(context.Context) []reconcile.Dropped {
	n.reads++
	var all []reconcile.Dropped
	for name, packets := range n.packets {
		d := reconcile.Dropped{Key: api.Key{ContainerID: "of-" + name, Interface: "eth0"}, Namespace: "shop", Name: name}
		if !n.unread[name] {
			d.Drops = []reconcile.Drop{
				{Direction: "ingress", Reason: reconcile.ReasonPolicy, Count: nft.Count{Packets: packets, Bytes: 60 * packets}},
				{Direction: "egress", Reason: reconcile.ReasonForged},
			}
		}
		all = append(all, d)
	}
	return all
}

// A clock stands still until it is told not to.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// newNode returns a node of pods, and its drops with room for limit of them.
func newNode(limit int, pods ...string) (*node, *drops, *clock) {
	n := &node{packets: map[string]uint64{}, unread: map[string]bool{}}
	for _, p := range pods {
		n.packets[p] = 0
	}
	c := &clock{time.Unix(1e9, 0)}
	d := newDrops(n.read, limit)
	d.now = c.now
	return n, d, c
}

// scrape reads again and returns the series, by pod and what tells its drops apart.
func scrape(t *testing.T, d *drops, c *clock) map[string]float64 {
	t.Helper()
	c.Time = c.Add(freshFor)
	d.refresh(t.Context())
	return collect(t, d)
}

func collect(t *testing.T, d *drops) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(d)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			switch f.GetName() {
			case "podwall_dropped_packets_total":
				got[fmt.Sprintf("%s/%s %s %s", labels["namespace"], labels["pod"], labels["direction"], labels["reason"])] = m.Counter.GetValue()
			case "podwall_drops_unread_attachments":
				got["unread"] = m.Gauge.GetValue()
			}
		}
	}
	return got
}

func TestDrops(t *testing.T) {
	n, d, c := newNode(2, "a", "b", "c")
	step := func(what string, change func(), want map[string]float64) {
		t.Helper()
		change()
		if _, ok := want["unread"]; !ok {
			want = maps.Clone(want)
			want["unread"] = 0
		}
		if diff := cmp.Diff(want, scrape(t, d, c)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	const in = " ingress policy"
	step("nothing dropped makes no series", func() {}, map[string]float64{})
	step("who drops most is told apart", func() { n.packets["a"], n.packets["b"], n.packets["c"] = 1, 2, 3 },
		map[string]float64{"shop/c" + in: 3, "shop/b" + in: 2, "/others" + in: 1})
	step("a series goes on", func() { n.packets["b"] = 5; n.packets["a"] = 2 },
		map[string]float64{"shop/c" + in: 3, "shop/b" + in: 5, "/others" + in: 2})
	step("what can't be read stays, and is counted", func() { n.unread["b"] = true },
		map[string]float64{"shop/c" + in: 3, "shop/b" + in: 5, "/others" + in: 2, "unread": 1})
	step("and is not counted twice afterwards", func() { n.unread["b"] = false },
		map[string]float64{"shop/c" + in: 3, "shop/b" + in: 5, "/others" + in: 2})
	step("a counter that began anew is added", func() { n.packets["b"] = 1 },
		map[string]float64{"shop/c" + in: 3, "shop/b" + in: 6, "/others" + in: 2})
	step("a pod that is gone has no series", func() { delete(n.packets, "c") },
		map[string]float64{"shop/b" + in: 6, "/others" + in: 2})
	step("and leaves its place", func() { n.packets["a"] = 4 },
		map[string]float64{"shop/a" + in: 2, "shop/b" + in: 6, "/others" + in: 2})
	step("idle pods keep theirs", func() { c.Time = c.Add(idle - 2*freshFor); n.packets["b"] = 2; n.packets["d"] = 1 },
		map[string]float64{"shop/a" + in: 2, "shop/b" + in: 7, "/others" + in: 3})
	step("but not for ever", func() { c.Time = c.Add(freshFor); n.packets["d"] = 3 },
		map[string]float64{"shop/d" + in: 2, "shop/b" + in: 7, "/others" + in: 3})
}

func TestDropsAreReadNowAndThen(t *testing.T) {
	n, d, c := newNode(10, "a")
	d.refresh(t.Context())
	c.Time = c.Add(freshFor - 1)
	d.refresh(t.Context())
	if n.reads != 1 {
		t.Errorf("%d readings within %s, want 1", n.reads, freshFor)
	}
	c.Time = c.Add(1)
	d.refresh(t.Context())
	c.Time = c.Add(-time.Hour) // a clock that was set back stops nothing
	d.refresh(t.Context())
	if n.reads != 3 {
		t.Errorf("%d readings, want 3", n.reads)
	}
}

// Whatever happens, the number of series stays within the limit, no counter goes
// down while its pod exists, and the sum is all that was dropped.
func TestDropsAddUp(t *testing.T) {
	const limit = 3
	n, d, c := newNode(limit)
	rnd := rand.New(rand.NewPCG(1, 2))
	var total, last float64
	before := map[string]float64{}
	for range 500 {
		for range rnd.IntN(4) {
			more := rnd.Uint64N(100)
			n.packets[fmt.Sprint("p", rnd.IntN(8))] += more
			total += float64(more)
		}
		if rnd.IntN(20) == 0 {
			c.Time = c.Add(idle)
		}
		got := scrape(t, d, c)
		delete(got, "unread")
		if len(got) > limit+1 {
			t.Fatalf("%d series, want at most %d and the others: %v", len(got), limit, got)
		}
		for s, v := range got {
			if v < before[s] && s == "/others ingress policy" {
				t.Fatalf("%s went from %v to %v", s, before[s], v)
			}
		}
		before = got
	}
	for _, v := range before {
		last += v
	}
	if last > total {
		t.Errorf("%v packets in all series, of %v", last, total)
	}
}

func TestPodsAreNamedWhateverTheirName(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    reconcile.Dropped
		want podID
	}{
		{"a name", reconcile.Dropped{Namespace: "shop", Name: "web"}, podID{"shop", "web"}},
		{"none", reconcile.Dropped{Key: api.Key{ContainerID: "0123456789abcdef", Interface: "eth0"}, Namespace: "shop"}, podID{"shop", "0123456789ab/eth0"}},
		{"no text", reconcile.Dropped{Namespace: "\xff", Name: "a\xfe"}, podID{"\uFFFD", "a\uFFFD"}},
	} {
		if got := podOf(tt.d); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What a scrape adds for a node's 110 pods, the kernel apart.
func BenchmarkScrape(b *testing.B) {
	n, d, c := newNode(100)
	for i := range 110 {
		n.packets[fmt.Sprint("p", i)] = 1
	}
	for b.Loop() {
		for p := range n.packets {
			n.packets[p]++
		}
		c.Time = c.Add(freshFor)
		d.refresh(b.Context())
	}
}
