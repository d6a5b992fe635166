package matrix

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

func addrsOf(list ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

func app(name string) policy.PodSet {
	return policy.PodSet{Namespace: "shop", Pods: policy.Selector{Needs: []policy.Need{{Key: "app", Op: policy.In, Values: []string{name}}}}}
}

func tcp(first, last uint16) policy.Port {
	return policy.Port{Ports: ruleset.Ports{Proto: ruleset.TCP, First: first, Last: last}}
}

// mall is a cluster with something of everything that a verdict depends on: both
// families, ranges that overlap and touch, named ports, protocols, blocks,
// replicas, pods on their node's network, one behind a node port and one whose
// address only the node tells, a pod without address.
func mall() policy.Snapshot {
	pod := func(name, app string, addrs ...string) policy.Pod {
		return policy.Pod{Namespace: "shop", Name: name, Node: "node-a", Labels: policy.Labels{"app": app}, Addresses: addrsOf(addrs...),
			Ports: []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: 8080}}}
	}
	ref := func(name string) ruleset.Ref {
		return ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: name}
	}
	side := func(rules ...policy.Rule) policy.Side { return policy.Side{Applies: true, Rules: rules} }
	agent := pod("agent", "agent", "10.1.0.1")
	agent.HostNetwork = true
	faraway := policy.Pod{Namespace: "shop", Name: "faraway", Node: "node-b", HostNetwork: true}
	return policy.Snapshot{
		Nodes: []policy.Node{{Name: "node-a", Addresses: addrsOf("10.1.0.1")}, {Name: "node-b", Addresses: addrsOf("10.1.0.2")}},
		Pods: []policy.Pod{
			pod("api-0", "api", "10.0.0.1", "fd00::1"), pod("api-1", "api", "10.0.0.2", "fd00::2"), pod("api-2", "api", "10.0.0.3"),
			pod("web-0", "web", "10.0.0.4"), pod("web-1", "web", "10.0.0.5"), pod("web-2", "web", "10.0.0.6"),
			pod("db", "db", "10.0.0.7"), pod("dual", "dual", "10.0.0.8", "fd00::8"), pod("six", "six", "fd00::9"),
			pod("unborn", "unborn"), agent, faraway,
		},
		Services: []policy.Service{{Namespace: "shop", Name: "web", Addresses: addrsOf("10.96.0.1"),
			Ports: []policy.ServicePort{{Proto: ruleset.TCP, Port: 80, NodePort: 30080}}}},
		Slices: []policy.EndpointSlice{{Namespace: "shop", Name: "web", Service: "web",
			Ports:     []policy.EndpointPort{{Proto: ruleset.TCP, Port: 8080}},
			Endpoints: []policy.Endpoint{{Addresses: addrsOf("10.0.0.7"), Ready: true}}}},
		Policies: []policy.Policy{
			{Ref: ref("api"), Subject: app("api"), Ingress: side(
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Pods: app("web")}, {Pods: app("dual")}},
					Ports: []policy.Port{tcp(80, 90), tcp(91, 95), {Name: "http", Ports: ruleset.Ports{Proto: ruleset.TCP}}}},
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Block: []netip.Prefix{netip.MustParsePrefix("10.0.0.6/32")}}},
					Ports: []policy.Port{tcp(85, 100), {Ports: ruleset.AllPorts(ruleset.UDP)}}})},
			{Ref: ref("db"), Subject: app("db"), Ingress: side(
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Pods: app("api")}}, Ports: []policy.Port{{Ports: ruleset.AnyPort}}})},
			{Ref: ref("web"), Subject: app("web"), Egress: side(
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Any: true}}, Ports: []policy.Port{tcp(1, 1000), tcp(65535, 65535)}},
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Pods: app("api")}}, Ports: []policy.Port{{Ports: ruleset.AllPorts(ruleset.SCTP)}}})},
			{Ref: ref("dual"), Subject: app("dual"), Ingress: side(
				policy.Rule{Action: ruleset.Accept, Peers: []policy.Peer{{Block: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
					Ports: []policy.Port{tcp(443, 443)}})},
		},
	}
}

// rowWith is the index of the row that pod is in.
func (m Matrix) rowWith(pod string) int {
	return slices.IndexFunc(m.Pods, func(r Row) bool { return slices.Contains(r.Pods, pod) })
}

// about is the entries of c that are about the port: those that name it or, if
// none does, that of all others.
func (c Cell) about(proto ruleset.Proto, port uint16) []Port {
	var named, other []Port
	for _, p := range c.Ports {
		switch {
		case p.Other:
			other = append(other, p)
		case p.Ports.Contains(proto, port):
			named = append(named, p)
		}
	}
	if len(named) > 0 {
		return named
	}
	return other
}

func TestMatrixAgreesWithExplain(t *testing.T) {
	snapshot := mall()
	m, err := Of(policy.New(snapshot), explain.Options{}, snapshot.Pods, nil)
	if err != nil {
		t.Fatal(err)
	}
	ports := []uint16{1, 2, 79, 80, 81, 84, 85, 90, 91, 95, 96, 100, 101, 442, 443, 444, 1000, 1001, 8079, 8080, 8081, 30079, 30080, 30081, 65534, 65535}
	w, verdicts := policy.New(snapshot), map[string]int{}
	for _, from := range snapshot.Pods {
		for _, to := range snapshot.Pods {
			f, g := m.rowWith(podID(from)), m.rowWith(podID(to))
			cell := m.Cells[f*len(m.Pods)+g]
			if f == g && (podID(from) == podID(to)) != cell.Self {
				continue // a pod and itself, in a row of several
			}
			for _, proto := range []ruleset.Proto{ruleset.TCP, ruleset.UDP, ruleset.SCTP} {
				for _, port := range ports {
					ex, err := explain.Explain(w, api.ExplainRequest{From: podID(from), To: podID(to), Protocol: proto, Port: port}, explain.Options{})
					if err != nil {
						t.Fatal(err)
					}
					got := cell.about(proto, port)
					if len(got) != 1 || got[0].Verdict != ex.Verdict || got[0].Egress.Verdict != ex.Egress.Verdict || got[0].Ingress.Verdict != ex.Ingress.Verdict {
						t.Errorf("%s to %s, %s %d: explain says %s (egress %s, ingress %s), the cell %+v",
							podID(from), podID(to), proto, port, ex.Verdict, ex.Egress.Verdict, ex.Ingress.Verdict, got)
					}
					verdicts[ex.Verdict]++
				}
			}
		}
	}
	if verdicts[explain.Allow] < 100 || verdicts[explain.Deny] < 100 {
		t.Errorf("the cluster's verdicts are %v: want many of both", verdicts)
	}
}

func TestMatrixFoldsOnlyWhatBehavesAlike(t *testing.T) {
	snapshot := mall()
	m, err := Of(policy.New(snapshot), explain.Options{}, snapshot.Pods, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range m.Pods {
		got = append(got, strings.TrimPrefix(r.Name, "shop/"))
	}
	// api-2 lacks the family by which six is reached; a block names web-2.
	want := []string{"api-* (2)", "api-2", "web-* (2)", "web-2", "db", "dual", "six", "unborn", "agent", "faraway"}
	if !slices.Equal(got, want) {
		t.Errorf("rows are %q, want %q", got, want)
	}
}

func TestAlike(t *testing.T) {
	tests := []struct {
		name string
		keys [][]string // of pods a, b and z
		want bool
	}{
		{"the same in every respect", [][]string{{"", "x", "y"}, {"x", "", "y"}, {"z", "z", ""}}, true},
		{"they reach different things", [][]string{{"", "x", "y"}, {"x", "", "Y"}, {"z", "z", ""}}, false},
		{"they are reached differently", [][]string{{"", "x", "y"}, {"x", "", "y"}, {"z", "Z", ""}}, false},
		{"only one reaches the other", [][]string{{"", "x", "y"}, {"X", "", "y"}, {"z", "z", ""}}, false},
		{"what they say to themselves tells nothing", [][]string{{"p", "x", "y"}, {"x", "q", "y"}, {"z", "z", ""}}, true},
	}
	for _, tt := range tests {
		if got := alike(tt.keys, 0, 1); got != tt.want {
			t.Errorf("%s: alike = %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestSameOwner(t *testing.T) {
	pod := func(namespace, name string, labels policy.Labels) policy.Pod {
		return policy.Pod{Namespace: namespace, Name: name, Labels: labels}
	}
	web := policy.Labels{"app": "web"}
	tests := []struct {
		name string
		a, b policy.Pod
		want bool
	}{
		{"replicas", pod("shop", "web-0", web), pod("shop", "web-1", web), true},
		{"other labels", pod("shop", "web-0", web), pod("shop", "web-1", policy.Labels{"app": "web", "track": "canary"}), false},
		{"another namespace", pod("shop", "web-0", web), pod("pay", "web-0", web), false},
		{"another name", pod("shop", "web-0", web), pod("shop", "api-0", web), false},
		{"names of one word", pod("shop", "web", web), pod("shop", "api", web), false},
		{"two versions of a Deployment", pod("shop", "web-5d4-x", policy.Labels{"app": "web", "pod-template-hash": "5d4"}),
			pod("shop", "web-6e5-y", policy.Labels{"app": "web", "pod-template-hash": "6e5"}), true},
	}
	for _, tt := range tests {
		if got := sameOwner(tt.a, tt.b); got != tt.want {
			t.Errorf("%s: sameOwner(%s, %s) = %t, want %t", tt.name, podID(tt.a), podID(tt.b), got, tt.want)
		}
	}
}

func TestSplit(t *testing.T) {
	all := []ruleset.Ports{ruleset.AllPorts(ruleset.TCP), ruleset.AllPorts(ruleset.UDP), ruleset.AllPorts(ruleset.SCTP)}
	tests := []struct {
		name     string
		mentions []ruleset.Ports
		want     string
	}{
		{"nothing mentioned leaves any other", nil, "[] TCP 1"},
		{"what is about every protocol mentions no port", []ruleset.Ports{ruleset.AnyPort}, "[] TCP 1"},
		{"overlaps are cut where one begins or ends", []ruleset.Ports{tcp(80, 90).Ports, tcp(85, 95).Ports}, "[TCP 80-84 TCP 85-90 TCP 91-95] TCP 1"},
		{"the first and the last port", []ruleset.Ports{tcp(1, 1).Ports, tcp(65535, 65535).Ports}, "[TCP 1 TCP 65535] TCP 2"},
		{"port 0 is none to ask about", []ruleset.Ports{ruleset.AllPorts(ruleset.TCP)}, "[TCP 1-65535] UDP 1"},
		{"all mentioned leaves no other", all, "[TCP 1-65535 UDP 1-65535 SCTP 1-65535] invalid"},
	}
	for _, tt := range tests {
		ranges, rest := split(tt.mentions)
		other := "invalid"
		if rest != (ruleset.Ports{}) {
			other = rest.String()
		}
		if got := fmt.Sprint(ranges, " ", other); got != tt.want {
			t.Errorf("%s: split(%v) = %s, want %s", tt.name, tt.mentions, got, tt.want)
		}
	}
}

// A step holds whoever waits for a lock: it is one pod's rules, or a few pairs.
func BenchmarkOfTwoHundredAndFifty(b *testing.B) {
	var s policy.Snapshot
	for i := range 250 {
		s.Pods = append(s.Pods, policy.Pod{Namespace: "shop", Name: fmt.Sprint("p", i), Labels: policy.Labels{"app": fmt.Sprint(i % 50)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)})}})
	}
	for i := range 50 {
		s.Policies = append(s.Policies, policy.Policy{Ref: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: fmt.Sprint(i)}, Subject: app(fmt.Sprint(i)),
			Ingress: policy.Side{Applies: true, Rules: []policy.Rule{{Action: ruleset.Accept, Peers: []policy.Peer{{Pods: app(fmt.Sprint((i + 1) % 50))}}, Ports: []policy.Port{tcp(80, 80), tcp(443, 443)}}}}})
	}
	w := policy.New(s)
	longest := time.Duration(0)
	for b.Loop() {
		survey := Begin(w, explain.Options{}, s.Pods, nil)
		for more := true; more; {
			start := time.Now()
			var err error
			if more, err = survey.Step(); err != nil {
				b.Fatal(err)
			}
			longest = max(longest, time.Since(start))
		}
		survey.Matrix()
	}
	b.ReportMetric(float64(longest.Microseconds()), "µs/longest-step")
}
