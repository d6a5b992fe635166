package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// contract is what the contract shows of inspect -o json.
const contract = `
{"namespace": "shop", "name": "api", "uid": "7d0f", "containerID": "3f2a", "interface": "eth0", "netns": "/run/netns/cni-1", "addresses": ["10.0.0.2"],
 "isolation": {"ingress": true, "egress": false},
 "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "api"}],
 "rules": [{"direction": "ingress", "verdict": "Accept", "policy": "shop/api", "kind": "NetworkPolicy", "index": 0,
            "ports": [{"protocol": "TCP", "port": 80, "endPort": 80}], "peers": 12, "packets": 0, "bytes": 0}],
 "status": {"state": "Enforced", "message": "", "revision": "sha256:00", "epoch": 3, "appliedAt": "2026-11-20T11:57:00Z"}}`

func TestInspectJSONIsTheContracts(t *testing.T) {
	in := api.Inspection{
		Attachment: api.Attachment{Key: api.Key{ContainerID: "3f2a", Interface: "eth0"}, Netns: "/run/netns/cni-1",
			Namespace: "shop", Name: "api", UID: "7d0f", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		Isolation: api.Isolation{Ingress: true},
		Policies:  []api.SelectingPolicy{{Ref: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "api"}, Ingress: true}},
		Rules: []api.RuleView{{Direction: ruleset.Ingress, Verdict: ruleset.Accept, Policy: "shop/api", Kind: "NetworkPolicy",
			Tier: ruleset.TierPolicy, Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: 80, Last: 80}}, Peers: 12}},
		Status: api.AttachmentStatus{State: api.StateEnforced, Revision: "sha256:00", Epoch: 3, AppliedAt: time.Date(2026, 11, 20, 11, 57, 0, 0, time.UTC)},
	}
	var b bytes.Buffer
	if err := printJSON(&b, viewOf(in)); err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(contract), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, d := range lacks("", want, got) {
		t.Errorf("inspect -o json: %s", d)
	}
}

// lacks says where got is not what want is; fields that want does not have may be
// there.
func lacks(path string, want, got any) []string {
	var diffs []string
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for k, v := range w {
			diffs = append(diffs, lacks(path+"."+k, v, g[k])...)
		}
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return []string{fmt.Sprintf("%s is %v, want %v", path, got, want)}
		}
		for i, v := range w {
			diffs = append(diffs, lacks(fmt.Sprintf("%s[%d]", path, i), v, g[i])...)
		}
	default:
		if !reflect.DeepEqual(want, got) {
			diffs = append(diffs, fmt.Sprintf("%s is %v, want %v", path, got, want))
		}
	}
	return diffs
}

func TestColumnsAlignWhateverTheLetters(t *testing.T) {
	g := newGrid("NAME", ">N", "X")
	g.row(plain("東京"), plain("1"), plain("x"))
	g.row(red.in("web"), plain("12"), plain("x"))
	g.row(plain("e\u0301t\u0065\u0301"), plain("3"), plain("x")) // été, its accents apart
	g.row(plain("🚀"), green.in("4"), plain("x"))
	g.row(plain("\x1b[31mred"), plain(""), plain("x"))
	for _, color := range []bool{false, true} {
		p := &page{color: color}
		p.draw(g, "  ")
		lines := strings.Split(strings.TrimSuffix(p.b.String(), "\n"), "\n")
		for i, l := range lines {
			plainText := strings.NewReplacer("\x1b[2m", "", "\x1b[31m", "", "\x1b[32m", "", "\x1b[0m", "").Replace(l)
			if got, want := columns(plainText), columns(`  \u001b[31mred    N   X`); got != want {
				t.Errorf("colour %t: line %d takes %d columns, want %d: %q", color, i, got, want, l)
			}
		}
	}
}

func TestPrintedTextMovesNoCursor(t *testing.T) {
	for in, want := range map[string]string{
		"web":          "web",
		"a\x1b[2Jb":    `a\u001b[2Jb`,
		"a\nb\tc":      `a\u000ab\u0009c`,
		"abc\u202edef": `abc\u202edef`,
		"\xff":         "\uFFFD",
		"東京 ✓ µs":      "東京 ✓ µs",
	} {
		if got := plain(in).render(true); got != want {
			t.Errorf("render of %q = %q, want %q", in, got, want)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	tests := []struct{ got, want string }{
		{octets(0), "0 B"}, {octets(1023), "1023 B"}, {octets(1024), "1.0 KiB"}, {octets(1<<20 - 1), "1.0 MiB"}, {octets(1<<64 - 1), "16.0 EiB"},
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(1234567), "1,234,567"},
		{took(0), ""}, {took(213 * time.Microsecond), "213 µs"}, {took(1500 * time.Microsecond), "1.5 ms"}, {took(42 * time.Millisecond), "42 ms"}, {took(2100 * time.Millisecond), "2.1 s"},
		{ago(time.Time{}, now), ""}, {ago(now.Add(time.Hour), now), "just now"}, {ago(now.Add(-59*time.Second), now), "59s ago"},
		{ago(now.Add(-time.Hour), now), "1h ago"}, {ago(now.Add(-61*time.Minute), now), "1h1m ago"}, {ago(now.Add(-49*time.Hour), now), "2d1h ago"},
		{many(0, "pod", "pods"), "no pods"}, {many(1, "pod", "pods"), "1 pod"}, {many(2000, "pod", "pods"), "2,000 pods"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestAwait(t *testing.T) {
	unavailable := fmt.Errorf("%w: nobody listens", api.ErrUnavailable)
	refused := api.Errorf(api.CodeInternal, "broken")
	tests := []struct {
		name  string
		wait  time.Duration
		after time.Duration // when the daemon is ready
		err   error         // of the answers before that
		ready bool
		took  time.Duration
		is    error
	}{
		{"a ready daemon is not waited for", time.Minute, 0, nil, true, 0, nil},
		{"without --wait nothing is waited for", 0, time.Second, nil, false, 0, nil},
		{"a daemon that gets ready ends the wait", time.Minute, time.Second, nil, true, time.Second, nil},
		{"so does one that has to start first", time.Minute, time.Second, unavailable, true, time.Second, nil},
		{"the wait ends with the last answer", time.Second, time.Hour, nil, false, 1 * time.Second, nil},
		{"or with what kept it from coming", time.Second, time.Hour, unavailable, false, 1 * time.Second, api.ErrUnavailable},
		{"what waiting does not mend is not waited for", time.Minute, time.Hour, refused, false, 0, refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				st, err := new(cli).await(t.Context(), tt.wait, func(context.Context) (api.Status, error) {
					if time.Since(start) >= tt.after {
						return api.Status{Ready: true}, nil
					}
					return api.Status{}, tt.err
				})
				if st.Ready != tt.ready || !errors.Is(err, tt.is) || time.Since(start).Round(2*pace) != tt.took {
					t.Errorf("ready %t after %v, error %v; want %t after %v, %v", st.Ready, time.Since(start), err, tt.ready, tt.took, tt.is)
				}
			})
		})
	}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"an error before the command ran is about the command line", errors.New("unknown flag"), exitUsage},
		{"a command can find the mistake too", &failure{usagef("pod x")}, exitUsage},
		{"no answer is no daemon", &failure{fmt.Errorf("ask: %w", api.ErrUnavailable)}, exitUnreachable},
		{"a daemon that says not now was reached", &failure{api.Errorf(api.CodeUnavailable, "starting")}, exitFailed},
		{"all else failed", &failure{os.ErrNotExist}, exitFailed},
		{"a denied flow is a failure only for who asked", &failure{errDenied}, exitFailed},
	}
	for _, tt := range tests {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%s: exit status of %v = %d, want %d", tt.name, tt.err, got, tt.want)
		}
	}
}

func TestOnlyRootIsToldSo(t *testing.T) {
	err := &failure{fmt.Errorf("%w: %w", api.ErrUnavailable, os.ErrPermission)}
	if got, want := advice(err), " (only root may talk to the daemon)"; got != want {
		t.Errorf("advice on %v = %q, want %q", err, got, want)
	}
}

// manifests is what compile reads in the tests below.
func manifests() source.World {
	addr := netip.MustParseAddr
	return source.World{
		Snapshot: policy.Snapshot{
			Nodes: []policy.Node{{Name: "node-a", Addresses: []netip.Addr{addr("10.1.0.1")}}},
			Pods: []policy.Pod{
				{Namespace: "shop", Name: "api", Node: "node-a", Addresses: []netip.Addr{addr("10.0.0.2")}},
				{Namespace: "shop", Name: "agent", Node: "node-a", HostNetwork: true},
			},
			Policies: []policy.Policy{{
				Ref:     ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "default-deny"},
				Subject: policy.PodSet{Namespace: "shop", Pods: policy.Selector{All: true}},
				Ingress: policy.Side{Applies: true},
			}},
		},
		Problems: []api.Problem{{Object: "bad.yaml", Message: "line 1:\nno manifest"}},
	}
}

func TestCompile(t *testing.T) {
	w := manifests()
	want := policy.New(w.Snapshot).Compile(policy.Target{
		Pod: w.Pods[0], Addresses: w.Pods[0].Addresses,
		Node: []netip.Addr{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("10.1.0.1")},
	})
	if !want.Isolated(ruleset.Ingress) {
		t.Fatal("the pod that is compiled has no rules to print")
	}
	asJSON, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const warning = "policyctl: warning: bad.yaml: line 1: no manifest\n"
	tests := []struct {
		name           string
		args           string
		status         int
		stdout, stderr string
	}{
		{"nft text for the interface, with the node's addresses from both", "--pod shop/api --interface net1 --node-address 10.0.0.254", exitDone, want.Text("net1"), warning},
		{"the rule set as JSON", "--pod shop/api --node-address 10.0.0.254 -o json", exitDone, string(asJSON) + "\n", warning},
		{"a misspelt pod suggests the right one", "--pod shop/apu", exitFailed, "",
			warning + "policyctl: compile shop/apu: no manifest of that pod; did you mean shop/api?\n"},
		{"a hostNetwork pod has no rules", "--pod shop/agent", exitFailed, "",
			warning + "policyctl: compile shop/agent: the pod is on its node's network, where podwall has no rules\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := program{stdout: &stdout, stderr: &stderr, now: time.Now, read: func(string) source.World { return manifests() }}
			status := p.run(t.Context(), append([]string{"compile", "-f", t.TempDir()}, strings.Fields(tt.args)...))
			if status != tt.status || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("compile %s: exit status %d, want %d\nstdout %s\nwant   %s\nstderr %s\nwant   %s",
					tt.args, status, tt.status, stdout.String(), tt.stdout, stderr.String(), tt.stderr)
			}
		})
	}
}
