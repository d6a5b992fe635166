package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/netnstest"
)

const scaleText = `Clusters with four pods and three policies in each namespace; the node has 110 pods in as many namespaces. An API server sends all of
it as watches with initial events do; ready is counted from the last byte that it sent. Memory is resident memory, a moment after.`

// sizes are the clusters that are measured, in pods.
var sizes = [...]int{1000, 10_000, 100_000}

// A weight is what a cluster of one size costs.
type weight struct {
	pods               float64
	ready, again       time.Duration // started with nothing, and with 110 pods and what was stored
	compile            time.Duration
	change             float64 // of a remote pod, to the last of 110, in milliseconds
	memory, heap, most float64
	bytes, kernelBytes float64
	elements           float64
}

// scale measures what the size of the cluster costs podwalld.
func (b *bench) scale(ctx context.Context) error {
	each, err := elementSize(ctx)
	if err != nil {
		return err
	}
	b.add(line{what: "an address in a kernel's set", unit: "bytes", got: exactly(each)})
	var weights []weight
	for _, pods := range sizes {
		w, err := b.weigh(ctx, pods, each)
		if err != nil {
			return fmt.Errorf("%d pods: %w", pods, err)
		}
		weights = append(weights, w)
	}
	plot := func(name string, value func(weight) float64) series {
		s := series{name: name}
		for _, w := range weights {
			s.points = append(s.points, point{w.pods, value(w)})
		}
		return s
	}
	b.curve("memory", "Memory of podwalld, by pods of the cluster", "pods", "MiB",
		plot("resident", func(w weight) float64 { return w.memory / (1 << 20) }),
		plot("heap", func(w weight) float64 { return w.heap / (1 << 20) }),
		plot("target", func(w weight) float64 { return 64 + w.pods/1024 }))
	b.curve("ready", "Until podwalld is ready, by pods of the cluster", "pods", "ms",
		plot("after the last byte", func(w weight) float64 { return ms(w.ready) }),
		plot("the rules of all 110 pods", func(w weight) float64 { return ms(w.compile) }))
	b.curve("change", "Until a remote pod is known to the last of 110 pods, by pods of the cluster", "pods", "ms",
		plot("p50", func(w weight) float64 { return w.change }))
	b.curve("restart", "Until podwalld is ready again, with 110 pods, by pods of the cluster", "pods", "ms",
		plot("after the last byte", func(w weight) float64 { return ms(w.again) }))
	b.curve("kernel", "Memory of the sets of 110 pods, by pods of the cluster", "pods", "KiB",
		plot("kernel", func(w weight) float64 { return w.kernelBytes / 1024 }))
	b.curve("api", "What the API server sends, by pods of the cluster", "pods", "MB",
		plot("sent", func(w weight) float64 { return w.bytes / 1e6 }))
	return nil
}

// weigh measures one size.
func (b *bench) weigh(ctx context.Context, pods int, each float64) (w weight, err error) {
	c := sized(pods)
	c.spread = true
	n, err := newClusterNode(fmt.Sprintf("scale-%d", pods), c)
	if err != nil {
		return w, err
	}
	defer n.end()
	w.pods = float64(pods)
	if w.ready, err = n.start(ctx); err != nil {
		return w, err
	}
	w.bytes = float64(n.hub.Sent())
	if err := n.fill(ctx); err != nil {
		return w, err
	}
	if w.elements, err = n.elements(ctx); err != nil {
		return w, err
	}
	w.kernelBytes = w.elements * each
	if w.compile, w.change, err = n.recompile(ctx); err != nil {
		return w, err
	}
	if err := n.Stop(); err != nil {
		return w, err
	}
	if w.again, err = n.start(ctx); err != nil {
		return w, err
	}
	time.Sleep(5 * time.Second) // what it needed to begin with is given back
	if w.memory, w.most, err = memoryOf(n.Pid()); err != nil {
		return w, err
	}
	w.heap, err = n.metric(ctx, "go_memstats_heap_alloc_bytes")
	b.weighed(c, w)
	return w, err
}

// weighed puts a size into the table.
func (b *bench) weighed(c cluster, w weight) {
	name := fmt.Sprintf("%s pods, %s policies: ", number(w.pods), number(float64(c.policies)))
	mib := func(what string, bytes float64, t *target) {
		b.add(line{what: name + what, unit: "MiB", got: exactly(bytes / (1 << 20)), target: t})
	}
	var ready, total *target
	if c.pods == sizes[len(sizes)-1] {
		ready, total = atMost(5000), atMost(200)
		mib("memory in all", w.memory, total)
	}
	mib("memory", w.memory, atMost(64+w.pods/1024))
	mib("memory at most", w.most, nil)
	mib("heap", w.heap, nil)
	b.add(line{what: name + "ready after the last byte", unit: "ms", got: exactly(ms(w.ready)), target: ready})
	b.add(line{what: name + "ready again after the last byte, with 110 pods", unit: "ms", got: exactly(ms(w.again))})
	b.add(line{what: name + "computing and writing the rules of all 110 pods", unit: "ms", got: exactly(ms(w.compile))})
	b.add(line{what: name + "a remote pod comes or goes, p50, the last of 110 pods", unit: "ms", got: exactly(w.change)})
	b.add(line{what: name + "addresses in the kernel's sets", unit: "addresses", got: exactly(w.elements)})
	mib("the kernel's sets", w.kernelBytes, nil)
	b.add(line{what: name + "sent by the API server", unit: "MB", got: exactly(w.bytes / 1e6)})
}

// recompile gives the node one more address, which every pod's rules admit, and
// returns how long that takes to the last of them; and how long the coming or
// going of a remote pod does.
func (n *clusterNode) recompile(ctx context.Context) (all time.Duration, one float64, err error) {
	e, err := listenTo(n.pods)
	if err != nil {
		return 0, 0, err
	}
	defer e.close()
	time.Sleep(100 * time.Millisecond) // let what came before it end
	e.transactions()
	start := time.Now()
	if _, err := n.RunErr("ip addr add 192.0.2.99/24 dev eth0"); err != nil {
		return 0, 0, err
	}
	last, err := e.wait(ctx)
	if err != nil {
		return 0, 0, err
	}
	took, err := n.kinds()[0].repeat(ctx, e, 20)
	if err != nil {
		return 0, 0, err
	}
	return last.Sub(start), summarize(took).median, nil
}

// elements counts the addresses in the sets of the node's pods.
func (n *clusterNode) elements(ctx context.Context) (float64, error) {
	sum := 0
	for _, sb := range n.pods {
		out, err := lab.Rules(ctx, sb)
		if err != nil {
			return 0, err
		}
		for part := range strings.SplitSeq(out, "elements = {") {
			if list, _, ok := strings.Cut(part, "}"); ok && !strings.Contains(list, "{") && part != out {
				sum += strings.Count(list, ",") + 1
			}
		}
	}
	return float64(sum), nil
}

// metric is the value of one of podwalld's.
func (n *clusterNode) metric(ctx context.Context, name string) (float64, error) {
	client := http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9469/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("read metrics: no %s", name)
}

// elementSize is how much of the kernel's memory one address in a set takes: that
// of a large set, divided. Others use the kernel's memory too, so it is the median
// of several.
func elementSize(ctx context.Context) (float64, error) {
	const many, times = 400_000, 7
	file := filepath.Join(os.TempDir(), "podwall-bench.nft")
	defer func() { _ = os.Remove(file) }()
	if err := writeFile(file, minimal(many, 1)); err != nil {
		return 0, err
	}
	var each []float64
	for range times {
		grown, err := growth(file)
		if err != nil || ctx.Err() != nil {
			return 0, errors.Join(err, context.Cause(ctx))
		}
		each = append(each, grown/many)
	}
	return summarize(each).median, nil
}

// growth is by how much the kernel's memory grows with the rules in a file.
func growth(file string) (float64, error) {
	ns, err := netnstest.Make()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	time.Sleep(500 * time.Millisecond) // the last one's memory is given back
	before, err := slab()
	if err != nil {
		return 0, err
	}
	if _, err := ns.RunErr("nft -f " + file); err != nil {
		return 0, err
	}
	after, err := slab()
	return after - before, err
}

// slab is the kernel's own memory that can't be given back, in bytes.
func slab() (float64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == "SUnreclaim:" || f[0] == "VmallocUsed:") {
			kib, _ := strconv.ParseFloat(f[1], 64) // the kernel writes numbers
			sum += kib * 1024
		}
	}
	return sum, nil
}
