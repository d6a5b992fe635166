package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

const (
	ambushed      = 120 // pods that admit nobody
	ambushedShort = 20
	ahead         = 60 // addresses that are sent to before anybody has them
)

// ambush starts pods at addresses to which others send without end, from their
// own node and from the other. A pod that admits nobody must not hear one of
// these packets, and one that no policy selects must hear some: else the guess
// which addresses would be given next was wrong.
func ambush(t *testing.T, c *cluster.Cluster) {
	for _, f := range c.Families {
		t.Run(string(f), func(t *testing.T) {
			n := ambushed
			if testing.Short() {
				n = ambushedShort
			}
			for i := 0; i < n && !t.Failed(); i += abreast {
				s := newScene(t, c, fmt.Sprintf("ambush-%s-%d", strings.ToLower(string(f)), i))
				s.isolate(t, "closed")
				sweepers := s.lieInWait(t, f)
				s.walkInto(t)
				s.must(s.Delete(t.Context(), strings.Join(sweepers, "\n---\n"))) // the next suite's pods get these addresses
			}
		})
	}
}

// lieInWait starts a pod on each node that sends to the addresses that both nodes
// will give next, and returns their manifests.
func (s *scene) lieInWait(t *testing.T, f cluster.Family) (manifests []string) {
	t.Helper()
	var markers, sweepers []cluster.Pod
	var targets []string
	for _, n := range s.Nodes {
		marker := s.pod("marker-"+n.Name, n.Name, nil)
		markers = append(markers, marker)
	}
	s.must(s.Pods(t.Context(), markers...))
	for _, m := range markers {
		all, err := s.Addresses(t.Context(), m)
		s.must(err)
		a := all[f]
		for range ahead {
			a = next(a)
			targets = append(targets, netip.AddrPortFrom(a, 80).String())
		}
	}
	for _, n := range s.Nodes {
		p := s.pod("sweeper-"+n.Name, n.Name, nil)
		p.Args = append([]string{"sweep", p.Name}, targets...)
		sweepers, manifests = append(sweepers, p), append(manifests, p.Manifest())
	}
	s.must(s.Pods(t.Context(), sweepers...))
	for i, n := range s.Nodes {
		_, err := s.ExecNetns(t.Context(), sweepers[i], "sh", "-c", impatient)
		s.must(err)
		s.must(n.Script(t.Context(), impatient))
	}
	return manifests
}

// impatient has who looks for an address ask every 20 ms whether somebody has it
// now, and not every second.
const impatient = `for f in /proc/sys/net/ipv[46]/neigh/*/retrans_time_ms; do echo 20 >$f; done`

// next is the address that is given after a: a range of IPv4 begins anew behind
// its gateway.
func next(a netip.Addr) netip.Addr {
	if a.Is4() && a.As4()[3] == 254 {
		b := a.As4()
		return netip.AddrFrom4([4]byte{b[0], b[1], b[2], 2})
	}
	return a.Next()
}

// walkInto starts the pods and looks at what they heard.
func (s *scene) walkInto(t *testing.T) {
	t.Helper()
	var manifests []string
	closed := make(map[string]bool) // by pod
	for i := range abreast + abreast/4 {
		app := "closed"
		if i%5 == 0 {
			app = "open"
		}
		p := s.pod(fmt.Sprintf("%s-%d", app, i), s.Nodes[i%len(s.Nodes)].Name, map[string]string{"app": app, "batch": "ambushed"})
		p.Args, p.Once = []string{"hear", "udp/80"}, true
		closed[p.Name], manifests = app == "closed", append(manifests, p.Manifest())
	}
	s.must(s.Apply(t.Context(), strings.Join(manifests, "\n---\n")))
	if err := s.ended(t.Context(), "ambushed", len(closed)); err != nil {
		t.Error(err)
	}
	logs, err := s.Kubectl(t.Context(), "logs", "-n", s.namespace, "-l", "batch=ambushed", "--prefix", "--tail=-1", "--max-log-requests=100")
	s.must(err)
	heard := make(map[string]int)
	for _, m := range datagram.FindAllStringSubmatch(logs, -1) {
		heard[m[1]]++
	}
	for name, closed := range closed {
		switch n := heard[name]; {
		case closed && n > 0:
			t.Errorf("%s admits nobody and heard %d packets", name, n)
		case !closed && n == 0:
			t.Errorf("%s is open and heard nothing: nobody sent to its address", name)
		}
	}
}

// datagram is a line of a pod's log about one.
var datagram = regexp.MustCompile(`(?m)^\[pod/([^/]+)/main\] udp `)

// ended waits until the pods of a batch have ended well.
func (s *scene) ended(ctx context.Context, batch string, n int) error {
	return s.Until(ctx, batch+" has ended", func(ctx context.Context) error {
		out, err := s.Kubectl(ctx, "get", "pods", "-n", s.namespace, "-l", "batch="+batch, "-o",
			`jsonpath={range .items[*]}{.metadata.name}: {.status.phase} {end}`)
		if err == nil && strings.Count(out, "Succeeded") < n {
			err = errors.New(out)
		}
		return err
	})
}
