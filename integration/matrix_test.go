package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
	"github.com/podwall/podwall/internal/ruleset"
)

// What the matrix of a running podwalld says about each pair of pods and each port
// is what becomes of packets.
func TestMatrixIsWhatPacketsMeet(t *testing.T) {
	n := newNode(t)
	for _, f := range []string{"pods.yaml", "policies.yaml", "web-to-api.yaml"} {
		b, err := os.ReadFile("demo/shop/" + f)
		must(t, err)
		must(t, n.WriteManifest(f, string(b)))
	}
	must(t, n.Start(t.Context()))
	pods := map[string]*lab.Sandbox{}
	for _, name := range []string{"client", "web", "api", "db"} {
		pods["shop/"+name] = addPod(t, n, "shop", name)
	}
	for _, name := range []string{"scraper", "unheard-of"} { // one that no manifest names
		pods["monitoring/"+name] = addPod(t, n, "monitoring", name)
	}
	out, err := n.Policyctl(t.Context(), "matrix", "-o", "json")
	must(t, err)
	var m matrix.Matrix
	must(t, json.Unmarshal([]byte(out), &m))
	var flows []lab.Expectation
	passing := 0
	for _, c := range m.Cells {
		from, to := pods[c.From], pods[c.To]
		if from == nil || to == nil || c.Self {
			continue // shop/cache has a manifest and no pod here
		}
		for _, port := range []uint16{80, 8080} { // which every pod answers
			pass := verdictOf(c, port) == explain.Allow
			if pass {
				passing++
			}
			flows = append(flows, lab.Expectation{Name: fmt.Sprintf("%s to %s:%d", c.From, c.To, port), Pass: pass,
				Flow: lab.Flow{From: from.Netns, Proto: "tcp", To: netip.AddrPortFrom(to.Addr(false), port)}})
		}
	}
	if len(flows) != 6*5*2 || passing < 6 || passing > 54 {
		t.Fatalf("%d flows, %d of them allowed", len(flows), passing)
	}
	expect(t, flows...)
}

// verdictOf is what a cell says about a TCP port.
func verdictOf(c matrix.Cell, port uint16) string {
	other := ""
	for _, p := range c.Ports {
		switch {
		case p.Other:
			other = p.Verdict
		case p.Ports.Contains(ruleset.TCP, port):
			return p.Verdict
		}
	}
	return other
}
