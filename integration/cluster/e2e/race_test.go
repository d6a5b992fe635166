package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/cluster"
)

// How many pods start in race, and how many of them at a time.
const (
	starts      = 500
	startsShort = 40
	abreast     = 20
)

// unasked is less than the time after which TCP sends its first packet again: an
// answer that came sooner answered the first.
const unasked = 900 * time.Millisecond

// race starts pods that send from their first instruction on to a server that
// policy allows and to one that it denies. Not one packet may reach the latter,
// by its own account, and the former must answer every pod; one on the pod's own
// node its very first packet.
func race(t *testing.T, c *cluster.Cluster) {
	for _, f := range c.Families {
		t.Run(string(f), func(t *testing.T) {
			v := keepVigil(t, c, "race-"+strings.ToLower(string(f)), f)
			n := starts
			if testing.Short() {
				n = startsShort
			}
			var slow []string
			for i := 0; i < n && !t.Failed(); i += abreast {
				slow = append(slow, v.start(t, i, min(i+abreast, n))...)
			}
			v.closed(t)
			v.undisturbed(t)
			if len(slow) > 0 {
				t.Errorf("%d of %d pods had to ask their own node's server twice: %s", len(slow), n, strings.Join(slow, "; "))
			}
		})
	}
}

// start starts the pods numbered from i to end and waits until they have ended.
// It returns what was said by those whose first packet was lost on their node.
func (v *vigil) start(t *testing.T, i, end int) (slow []string) {
	t.Helper()
	batch := fmt.Sprint("batch-", i)
	nodes := make(map[string]string) // by pod
	var manifests []string
	for ; i < end; i++ {
		p := v.pod(fmt.Sprintf("racer-%d", i), v.Nodes[i%len(v.Nodes)].Name, map[string]string{"app": watched["app"], "batch": batch})
		good := v.addr[v.good[i/len(v.Nodes)%len(v.good)].Name]
		p.Args = []string{"first", p.Name, good.String(), v.addr[v.bad.Name].String()}
		p.Once = true
		nodes[p.Name], manifests = p.Node, append(manifests, p.Manifest())
	}
	all := strings.Join(manifests, "\n---\n")
	v.must(v.Apply(t.Context(), all))
	if err := v.ended(t.Context(), batch, len(nodes)); err != nil {
		t.Error(err)
	}
	logs, err := v.Kubectl(t.Context(), "logs", "-n", v.namespace, "-l", "batch="+batch, "--prefix", "--tail=-1", "--max-log-requests=100")
	v.must(err)
	good := 0
	for _, m := range answered.FindAllStringSubmatch(logs, -1) {
		good++
		local := m[3] == "good-"+nodes[m[1]]
		if took, err := time.ParseDuration(m[2]); err != nil || local && took > unasked {
			slow = append(slow, fmt.Sprintf("%s on %s after %s", m[1], nodes[m[1]], m[2]))
		}
	}
	if good != len(nodes) {
		t.Errorf("%d of %d pods had an answer from what policy allows:\n%s", good, len(nodes), logs)
	}
	v.must(v.Delete(t.Context(), all))
	return slow
}

// answered is the line of a racer's log with its name, the time and who answered.
var answered = regexp.MustCompile(`(?m)^\[pod/([^/]+)/main\] allowed target answered after (\S+): (\S+) `)

// A vigil is a scene in which pods try all the time what policy allows and what
// it denies, on every node, while a test does something else.
//
//	good-NODE     what the watched pods may reach; admits nobody else
//	bad           what they may not reach; its own policy would let them in
//	attacker-NODE watched: sends to bad without end
//	stream-NODE   watched: keeps connections to good-node1 going
type vigil struct {
	*scene
	family         cluster.Family
	good           []cluster.Pod
	bad            cluster.Pod
	attackers      []cluster.Pod
	streams        []cluster.Pod
	addr           map[string]netip.AddrPort // of the servers, by name
	heardByRequest int                       // lines in bad's log that the test itself caused
}

var watched = map[string]string{"app": "watched"}

func keepVigil(t *testing.T, c *cluster.Cluster, namespace string, f cluster.Family) *vigil {
	t.Helper()
	v := &vigil{scene: newScene(t, c, namespace), family: f, addr: make(map[string]netip.AddrPort)}
	v.must(c.Apply(t.Context(), v.policies()))
	v.bad = v.pod("bad", c.Nodes[0].Name, map[string]string{"app": "bad"})
	for _, n := range c.Nodes {
		v.good = append(v.good, v.pod("good-"+n.Name, n.Name, map[string]string{"app": "good"}))
	}
	v.must(c.Pods(t.Context(), append(v.good, v.bad)...))
	for _, p := range append(v.good, v.bad) {
		a, err := c.Addresses(t.Context(), p)
		v.must(err)
		v.addr[p.Name] = netip.AddrPortFrom(a[f], 80)
	}
	v.hearSomebody(t)
	for _, n := range c.Nodes {
		attacker, stream := v.pod("attacker-"+n.Name, n.Name, watched), v.pod("stream-"+n.Name, n.Name, watched)
		attacker.Args = []string{"flood", attacker.Name, v.addr["bad"].String()}
		stream.Args = []string{"stream", "tcp/" + v.addr[v.good[0].Name].String()}
		v.attackers, v.streams = append(v.attackers, attacker), append(v.streams, stream)
	}
	v.must(c.Pods(t.Context(), append(v.attackers, v.streams...)...))
	return v
}

// policies: the watched may reach the good, who admit only them.
func (v *vigil) policies() string {
	policy := func(name, pods, direction, rule string) string {
		return fmt.Sprintf(`{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": %q, "name": %q},
			"spec": {"podSelector": {"matchLabels": {"app": %q}}, "policyTypes": [%q], %s}}`, v.namespace, name, pods, direction, rule)
	}
	return policy("watched", "watched", "Egress", `"egress": [{"to": [{"podSelector": {"matchLabels": {"app": "good"}}}]}]`) + "\n---\n" +
		policy("good", "good", "Ingress", `"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "watched"}}}]}]`)
}

// hearSomebody proves that bad hears whoever may speak to it, from both nodes.
func (v *vigil) hearSomebody(t *testing.T) {
	t.Helper()
	for _, n := range v.Nodes {
		free := v.pod("free-"+n.Name, n.Name, map[string]string{"app": "free"})
		v.must(v.Pods(t.Context(), free))
		v.reaches(t, flow{free, "tcp", v.addr["bad"]})
		v.reaches(t, flow{free, "udp", v.addr["bad"]})
		v.must(v.Delete(t.Context(), free.Manifest()))
	}
	v.heardByRequest = len(v.heard(t))
	if v.heardByRequest < 2*again*len(v.Nodes) {
		t.Fatalf("bad heard %d messages of %d", v.heardByRequest, 2*again*len(v.Nodes))
	}
}

// heard is what bad says that it heard.
func (v *vigil) heard(t *testing.T) []string {
	t.Helper()
	log, err := v.PodLog(t.Context(), v.bad)
	v.must(err)
	var all []string
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "tcp ") || strings.HasPrefix(line, "udp ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// closed demands that nothing has reached bad that policy denies.
func (v *vigil) closed(t *testing.T) {
	t.Helper()
	if leaks := v.heard(t)[v.heardByRequest:]; len(leaks) > 0 {
		t.Errorf("%d messages reached what policy denies, the first: %s", len(leaks), strings.Join(leaks[:min(3, len(leaks))], "; "))
	}
}

// undisturbed demands that no allowed connection was lost, open or new, and that
// there have been some since the last time.
func (v *vigil) undisturbed(t *testing.T) {
	t.Helper()
	for _, p := range v.streams {
		log, err := v.PodLog(t.Context(), p)
		v.must(err)
		if i := strings.Index(log, "LOST"); i >= 0 {
			t.Errorf("%s: %s", p, log[i:])
		}
		v.alive(t, p)
	}
}

// alive waits until a stream says that it got more answers.
func (v *vigil) alive(t *testing.T, p cluster.Pod) {
	t.Helper()
	last := func(ctx context.Context) (string, error) {
		return v.Kubectl(ctx, "logs", "-n", p.Namespace, p.Name, "--tail=1")
	}
	before, err := last(t.Context())
	v.must(err)
	if err := v.Until(t.Context(), p.String()+" gets answers", func(ctx context.Context) error {
		now, err := last(ctx)
		if err == nil && (now == before || !strings.HasPrefix(now, "answers ")) {
			err = fmt.Errorf("its last line is still %q", now)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
