package main

import (
	"context"
	"embed"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/podwall/podwall/integration/lab"
)

//go:embed shop
var manifests embed.FS

// wanted is who may reach whom once the policies stand. Everybody reaches itself.
const wanted = `
to         web:80  api:8080  db:5432  cache:6379  api:9100  bank:443  elsewhere:443
client     yes     no        no       no          no        no        no
web        yes     yes       no       no          no        no        no
api        no      yes       yes      yes         yes       yes       no
db         no      no        yes      no          no        no        no
cache      no      no        no       yes         no        no        no
scraper    no      no        no       no          yes       yes       yes
`

// A shop is a node with the pods of the demo, and the hosts that they may want to
// reach.
type shop struct {
	node  *lab.Node
	pods  map[string]*lab.Sandbox
	addrs map[string]netip.Addr // of pods and hosts, by their short names
}

// newShop makes the node and its world; the pods come later.
func newShop() (*shop, error) {
	node, err := lab.NewNode("demo")
	if err != nil {
		return nil, err
	}
	s := &shop{node: node, pods: map[string]*lab.Sandbox{}, addrs: map[string]netip.Addr{
		"bank":      netip.MustParseAddr("203.0.113.10"),
		"elsewhere": netip.MustParseAddr("198.51.100.5"),
	}}
	hosts := []netip.Addr{s.addrs["bank"], s.addrs["elsewhere"]}
	if err := node.AddWorld(hosts...); err != nil {
		return nil, err
	}
	_, err = lab.Serve(node.World, hosts, 443)
	return s, err
}

// apply writes one of the demo's manifests to where podwalld reads them.
func (s *shop) apply(name string) error {
	b, err := manifests.ReadFile("shop/" + name)
	if err != nil {
		return err
	}
	return s.node.WriteManifest(name, string(b))
}

// namespace is where a pod of the demo lives.
func namespace(pod string) string {
	if pod == "scraper" {
		return "monitoring"
	}
	return "shop"
}

// open adds the pods and starts what runs in them.
func (s *shop) open(ctx context.Context, names ...string) error {
	var all sync.WaitGroup
	errs := make([]error, len(names))
	boxes := make([]*lab.Sandbox, len(names))
	for i, name := range names {
		all.Go(func() { boxes[i], errs[i] = s.node.AddPod(ctx, namespace(name), name) })
	}
	all.Wait()
	for i, name := range names {
		if errs[i] != nil {
			return errs[i]
		}
		if _, err := lab.Serve(boxes[i].Netns, boxes[i].Addrs, 80, 8080, 5432, 6379, 9100); err != nil {
			return err
		}
		s.pods[name], s.addrs[name] = boxes[i], boxes[i].Addr(false)
	}
	return nil
}

// A matrix is a table of who reaches whom.
type matrix struct {
	columns, rows []string
	flows         []lab.Expectation // row by row
}

// matrix reads a table like wanted. If everybody is set, all should pass.
func (s *shop) matrix(table string, everybody bool) (matrix, error) {
	var m matrix
	for line := range strings.Lines(strings.TrimSpace(table)) {
		f := strings.Fields(line)
		if m.columns == nil {
			m.columns = f[1:]
			continue
		}
		m.rows = append(m.rows, f[0])
		for i, cell := range f[1:] {
			flow, err := s.flow(f[0], m.columns[i])
			if err != nil {
				return matrix{}, err
			}
			flow.Pass = everybody || cell == "yes"
			m.flows = append(m.flows, flow)
		}
	}
	return m, nil
}

// flow is the TCP connection from a pod to a place like db:5432.
func (s *shop) flow(from, to string) (lab.Expectation, error) {
	name, port, _ := strings.Cut(to, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || s.pods[from] == nil || !s.addrs[name].IsValid() {
		return lab.Expectation{}, fmt.Errorf("nobody makes connections from %s to %s", from, to)
	}
	return lab.Expectation{
		Name: from + " to " + to,
		Flow: lab.Flow{From: s.pods[from].Netns, Proto: "tcp", To: netip.AddrPortFrom(s.addrs[name], uint16(n))},
	}, nil
}
