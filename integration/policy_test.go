package integration

import (
	_ "embed"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/podwall/podwall/integration/lab"
)

//go:embed testdata/cast.yaml
var castManifest string

// Every file in testdata/policies is one fact about NetworkPolicy: a comment that
// says it, manifests, and flows. Each flow is first seen to pass without the
// manifests, must then be as the file says, and pass again when they are gone.
//
//	shop/web -> shop/api  tcp/80 udp4/53 icmp  allowed
//
// A protocol without 4 or 6 is both families. The ends are in newCast.
func TestPolicies(t *testing.T) {
	files, err := filepath.Glob("testdata/policies/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	const nodes = 4
	for i := range nodes {
		t.Run(fmt.Sprintf("node%d", i), func(t *testing.T) {
			t.Parallel()
			c := newCast(t)
			for j := i; j < len(files); j += nodes {
				name := strings.TrimSuffix(filepath.Base(files[j]), ".txtar")
				t.Run(name, func(t *testing.T) { c.play(t, files[j]) })
			}
		})
	}
}

// play tries one case.
func (c *cast) play(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var flows []lab.Expectation
	var manifests []string
	for _, f := range a.Files {
		if f.Name == "flows" {
			if flows, err = c.flows(string(f.Data)); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			continue
		}
		manifests = append(manifests, f.Name)
	}
	if len(flows) == 0 || len(manifests) == 0 {
		t.Fatalf("%s: want manifests and flows", file)
	}
	open := make([]lab.Expectation, len(flows))
	for i, f := range flows {
		f.Pass = true
		open[i] = f
	}

	expect(t, open...)
	for _, f := range a.Files {
		if f.Name != "flows" {
			must(t, c.node.WriteManifest("case-"+f.Name, string(f.Data)))
		}
	}
	defer func() {
		for _, name := range manifests {
			must(t, c.node.RemoveManifest("case-"+name))
		}
		expect(t, open...)
	}()
	expect(t, flows...)
}

// An end is where a flow may begin or end.
type end struct {
	ns     *lab.Netns
	v4, v6 netip.Addr
	pinned bool // flows from here must name their source
}

// A cast is a node with the pods and hosts that cases are about.
type cast struct {
	node *lab.Node
	ends map[string]end
}

// ports are answered at by everybody.
var ports = [...]uint16{53, 80, 443, 8080, 9090}

func newCast(t *testing.T) *cast {
	c := &cast{node: startNode(t, castManifest), ends: map[string]end{}}
	outside := func(name, v4, v6 string) {
		e := end{ns: c.node.World, v4: netip.MustParseAddr(v4), v6: netip.MustParseAddr(v6), pinned: true}
		must(t, c.node.AddWorld(e.v4, e.v6))
		serve(t, e.ns, []netip.Addr{e.v4, e.v6}, ports[:]...)
		c.ends[name] = e
	}
	outside("host10", "203.0.113.10", "2001:db8:113::10")
	outside("host77", "203.0.113.77", "2001:db8:113::77")
	outside("far", "198.51.100.5", "2001:db8:51::5")
	outside("shop/remote", "10.1.1.11", "fd00:1:1::11") // a pod of another node
	outside("backend21", "10.1.1.21", "fd00:1:1::21")
	outside("backend22", "10.1.1.22", "fd00:1:1::22")

	var all sync.WaitGroup
	var mu sync.Mutex
	for name, host := range map[string]string{
		"shop/web": "11", "shop/api": "12", "shop/db": "13", "stock/web": "21", "stock/api": "22", "bare/job": "31",
	} {
		all.Go(func() {
			e := c.addPod(t, name, "10.1.0."+host, "fd00:1::"+host)
			mu.Lock()
			defer mu.Unlock()
			c.ends[name] = e
		})
	}
	all.Wait()

	own := func(name string, v4, v6 netip.Addr) {
		serve(t, c.node.Netns, []netip.Addr{v4, v6}, ports[:]...)
		c.ends[name] = end{ns: c.node.Netns, v4: v4, v6: v6, pinned: true}
	}
	own("node@gateway", lab.Gateway4, lab.Gateway6)
	own("node@uplink", lab.Uplink4, lab.Uplink6)
	own("node@second", lab.Second4, lab.Second6)
	c.ends["node"] = end{ns: c.node.Netns}
	c.proxy(t)
	return c
}

func (c *cast) addPod(t *testing.T, pod, v4, v6 string) end {
	namespace, name, _ := strings.Cut(pod, "/")
	e := end{v4: netip.MustParseAddr(v4), v6: netip.MustParseAddr(v6)}
	sb, err := c.node.AddPod(t.Context(), namespace, name, e.v4, e.v6)
	if err != nil {
		t.Error(err)
		return e
	}
	t.Cleanup(func() { _ = sb.Delete() })
	e.ns = sb.Netns
	s, err := lab.Serve(e.ns, []netip.Addr{e.v4, e.v6}, ports[:]...)
	if err != nil {
		t.Error(err)
		return e
	}
	t.Cleanup(s.Close)
	return e
}

// proxy does for the address vip what kube-proxy does: connections to its port 80
// go to port 8080 of backend21 and backend22 in turn.
func (c *cast) proxy(t *testing.T) {
	if _, err := c.node.RunErr(`nft -f - <<end
table ip proxy {
	chain services {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.10 tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.1.1.21, 1 : 10.1.1.22 } : 8080
	}
}
table ip6 proxy {
	chain services {
		type nat hook prerouting priority dstnat
		ip6 daddr fd00:96::10 tcp dport 80 dnat to numgen inc mod 2 map { 0 : fd00:1:1::21, 1 : fd00:1:1::22 } : 8080
	}
}
end`); err != nil {
		t.Fatal(err)
	}
	c.ends["vip"] = end{v4: netip.MustParseAddr("10.96.0.10"), v6: netip.MustParseAddr("fd00:96::10")}
}

// flows reads the lines of a case.
func (c *cast) flows(text string) ([]lab.Expectation, error) {
	var all []lab.Expectation
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 || f[1] != "->" || (f[len(f)-1] != "allowed" && f[len(f)-1] != "denied") {
			return nil, fmt.Errorf("%q: want FROM -> TO PROTOCOL/PORT… allowed|denied", line)
		}
		from, ok1 := c.ends[f[0]]
		to, ok2 := c.ends[f[2]]
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("%q: nobody has this name", line)
		}
		for _, what := range f[3 : len(f)-1] {
			some, err := expand(from, to, what)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			for _, e := range some {
				e.Name = fmt.Sprintf("%s -> %s %s at %s", f[0], f[2], what, e.To.Addr())
				e.Pass = f[len(f)-1] == "allowed"
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// expand returns the flows that a word like tcp/80, udp6/53 or icmp stands for.
func expand(from, to end, what string) ([]lab.Expectation, error) {
	proto, port, _ := strings.Cut(what, "/")
	var number uint64
	if port != "" {
		var err error
		if number, err = strconv.ParseUint(port, 10, 16); err != nil {
			return nil, err
		}
	}
	base := strings.TrimRight(proto, "46")
	if base != "tcp" && base != "udp" && base != "icmp" {
		return nil, fmt.Errorf("protocol %q: want tcp, udp or icmp", base)
	}
	var all []lab.Expectation
	for _, family := range []struct {
		suffix            string
		source, addressee netip.Addr
	}{{"4", from.v4, to.v4}, {"6", from.v6, to.v6}} {
		if proto != base && proto != base+family.suffix {
			continue
		}
		f := lab.Flow{From: from.ns, Proto: base, To: netip.AddrPortFrom(family.addressee, uint16(number))}
		if from.pinned {
			f.Source = family.source
		}
		all = append(all, lab.Expectation{Flow: f})
	}
	return all, nil
}
