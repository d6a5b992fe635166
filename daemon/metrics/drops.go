package metrics

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
)

const (
	freshFor = 5 * time.Second // no reading is made again so soon
	budget   = 2 * time.Second // for one reading
	idle     = time.Hour       // a pod that drops nothing for so long makes room for another
)

var (
	droppedPackets = newReading(prometheus.CounterValue, "dropped_packets_total",
		"Packets that pods' rules dropped, by why. Pods beyond the limit are together in namespace \"\", pod \"others\".",
		"namespace", "pod", "direction", "reason")
	droppedBytes = newReading(prometheus.CounterValue, "dropped_bytes_total",
		"Bytes of the packets that pods' rules dropped.", "namespace", "pod", "direction", "reason")
	auditedPackets = newReading(prometheus.CounterValue, "audited_packets_total",
		"Packets that policies would have dropped, had their pod not been audited.", "namespace", "pod", "direction")
	unread = newReading(prometheus.GaugeValue, "drops_unread_attachments",
		"Attachments whose counters of drops could not be read at the last reading, or not in time.")
	readingTook = newReading(prometheus.GaugeValue, "drops_reading_duration_seconds",
		"Time that the last reading of all counters of drops took.")
)

// A podID is the pod of a series.
type podID struct{ namespace, name string }

// others is the pod that stands for all that are not told apart. No namespace has
// an empty name.
var others = podID{"", "others"}

// A kind is what a pod's drops are told apart by.
type kind struct {
	direction string
	reason    reconcile.Reason
}

// A series is the drops of a pod.
type series struct {
	counts map[kind]nft.Count
	last   time.Time // that it dropped something
}

// Drops is the Collector of the counters of drops. It adds up differences, so
// that a series goes on where a pod has its rules anew, and where the pod gets
// one of its own, or loses it.
type drops struct {
	read  func(context.Context) []reconcile.Dropped
	limit int
	now   func() time.Time

	mu     sync.Mutex
	readAt time.Time
	took   time.Duration
	unread int
	before map[api.Key]map[kind]nft.Count // the kernel's counters at the last reading
	pods   map[podID]*series              // at most limit, and others
}

func newDrops(read func(context.Context) []reconcile.Dropped, limit int) *drops {
	return &drops{read: read, limit: limit, now: time.Now, before: map[api.Key]map[kind]nft.Count{}, pods: map[podID]*series{}}
}

// refresh reads the counters, unless that was done a moment ago.
func (d *drops) refresh(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	start := d.now()
	if age := start.Sub(d.readAt); !d.readAt.IsZero() && age >= 0 && age < freshFor {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	all := d.read(ctx)
	d.readAt, d.took = start, d.now().Sub(start)
	d.add(all, start)
}

// A growth is what a pod has dropped since the last reading.
type growth struct {
	pod    podID
	counts map[kind]nft.Count
	total  uint64
}

// add adds what has been dropped since the last reading. Pods that drop most
// choose first whether they are told apart.
func (d *drops) add(all []reconcile.Dropped, now time.Time) {
	by := map[podID]*growth{}
	keys := map[api.Key]bool{}
	d.unread = 0
	for _, a := range all {
		id := podOf(a)
		keys[a.Key] = true
		g := by[id]
		if g == nil {
			g = &growth{pod: id, counts: map[kind]nft.Count{}}
			by[id] = g
		}
		if a.Drops == nil {
			d.unread++
			continue
		}
		d.grow(g, a)
	}
	for key := range d.before {
		if !keys[key] {
			delete(d.before, key)
		}
	}
	for id := range d.pods {
		if id != others && by[id] == nil {
			delete(d.pods, id)
		}
	}
	list := make([]*growth, 0, len(by))
	for _, g := range by {
		if g.total > 0 {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b *growth) int {
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(a.pod.namespace, b.pod.namespace), cmp.Compare(a.pod.name, b.pod.name))
	})
	for _, g := range list {
		d.seriesOf(g.pod, now).add(g, now)
	}
}

// grow adds to g what a has dropped since it was read last. Counters that are
// lower than before began anew.
func (d *drops) grow(g *growth, a reconcile.Dropped) {
	was := d.before[a.Key]
	is := make(map[kind]nft.Count, len(a.Drops))
	for _, drop := range a.Drops {
		k := kind{drop.Direction, drop.Reason}
		is[k] = drop.Count
		n := drop.Count
		if w := was[k]; w.Packets <= n.Packets && w.Bytes <= n.Bytes {
			n.Packets, n.Bytes = n.Packets-w.Packets, n.Bytes-w.Bytes
		}
		if n != (nft.Count{}) {
			g.counts[k] = plus(g.counts[k], n)
			g.total += n.Packets
		}
	}
	d.before[a.Key] = is
}

// seriesOf is where drops of pod are counted from now on.
func (d *drops) seriesOf(pod podID, now time.Time) *series {
	if s := d.pods[pod]; s != nil {
		return s
	}
	apart := len(d.pods)
	if d.pods[others] != nil {
		apart--
	}
	if apart >= d.limit && !d.makeRoom(now) {
		pod = others
	}
	if d.pods[pod] == nil {
		d.pods[pod] = &series{counts: map[kind]nft.Count{}}
	}
	return d.pods[pod]
}

// makeRoom ends the series that has been idle for longest, if it has been for
// long enough.
func (d *drops) makeRoom(now time.Time) bool {
	var oldest podID
	for id, s := range d.pods {
		if id != others && now.Sub(s.last) >= idle && (oldest == podID{} || s.last.Before(d.pods[oldest].last)) {
			oldest = id
		}
	}
	if oldest == (podID{}) {
		return false
	}
	delete(d.pods, oldest)
	return true
}

func (s *series) add(g *growth, now time.Time) {
	s.last = now
	for k, n := range g.counts {
		s.counts[k] = plus(s.counts[k], n)
	}
}

func plus(a, b nft.Count) nft.Count {
	return nft.Count{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

// podOf is the pod of a as labels name it. Its name may be anybody's invention.
func podOf(a reconcile.Dropped) podID {
	name := a.Name
	if name == "" {
		name = a.Key.String()
	}
	return podID{strings.ToValidUTF8(a.Namespace, "\uFFFD"), strings.ToValidUTF8(name, "\uFFFD")}
}

// Describe is prometheus.Collector's.
func (d *drops) Describe(to chan<- *prometheus.Desc) {
	for _, r := range []reading{droppedPackets, droppedBytes, auditedPackets, unread, readingTook} {
		to <- r.desc
	}
}

// Collect is prometheus.Collector's. It gives what refresh has read.
func (d *drops) Collect(to chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to <- unread.of(float64(d.unread))
	to <- readingTook.of(d.took.Seconds())
	for id, s := range d.pods {
		for k, n := range s.counts {
			if k.reason == reconcile.ReasonAudit {
				to <- auditedPackets.of(float64(n.Packets), id.namespace, id.name, k.direction)
				continue
			}
			labels := []string{id.namespace, id.name, k.direction, string(k.reason)}
			to <- droppedPackets.of(float64(n.Packets), labels...)
			to <- droppedBytes.of(float64(n.Bytes), labels...)
		}
	}
}
