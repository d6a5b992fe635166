package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

const closedShop = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - ports: [{port: 8080}]
`

// remembered returns the events that the daemon remembers, by policyctl.
func remembered(ctx context.Context, n *lab.Node, flags ...string) ([]api.Event, error) {
	out, err := n.Policyctl(ctx, append([]string{"monitor", "--no-follow", "-o", "json"}, flags...)...)
	if err != nil {
		return nil, err
	}
	return eventsIn(out)
}

func eventsIn(out string) ([]api.Event, error) {
	var list []api.Event
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var e api.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		if e.Protocol != "" { // else it says what was hidden
			list = append(list, e)
		}
	}
	return list, nil
}

// refused is a flow from web to port 80 of db, which no policy allows.
func refused(web, db *lab.Sandbox) lab.Expectation {
	return lab.Expectation{Name: "web to db:80", Flow: lab.Flow{From: web.Netns, Proto: "tcp", To: netip.AddrPortFrom(db.Addr(false), 80)}}
}

// What policy drops in a real pod is an event that names both pods and the
// policy; it outlives the daemon, a stream of events goes on after it, and
// nothing of it keeps a deleted pod's namespace.
func TestEvents(t *testing.T) {
	t.Parallel()
	n := startNode(t, closedShop)
	web, db := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "db")
	follow := filepath.Join(t.TempDir(), "follow")
	stop, err := n.Background(follow, n.Binary("policyctl"), "--socket", n.Socket(), "monitor", "-o", "json", "--pod", "shop/db")
	must(t, err)
	t.Cleanup(stop)
	expect(t, refused(web, db))
	filter := []string{"--pod", "shop/db", "--peer", "shop/web", "--verdict", "drop", "--direction", "ingress", "--port", "80"}
	seen := func() error {
		events, err := remembered(t.Context(), n, filter...)
		switch {
		case err != nil:
			return err
		case len(events) == 0:
			return errors.New("no event")
		}
		e := events[0]
		if e.TCPFlags != "SYN" || e.To.Pod != "db" || e.From.Pod != "web" || e.Reason.Cause != ruleset.CauseIsolation ||
			len(e.Reason.Isolating) != 1 || e.Reason.Isolating[0] != (ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"}) {
			return fmt.Errorf("event %+v, want web's SYN, dropped for isolation by shop/db", e)
		}
		return nil
	}
	netnstest.Eventually(t, seen)
	time.Sleep(time.Second) // what a daemon has seen for longer than that survives it
	must(t, n.Kill())
	must(t, n.Start(t.Context()))
	must(t, seen())

	was := followed(t, follow)
	expect(t, refused(web, db))
	netnstest.Eventually(t, func() error {
		if now := followed(t, follow); now <= was || was == 0 {
			return fmt.Errorf("the stream had %d events before the daemon was killed, and has %d", was, now)
		}
		return nil
	})
	must(t, n.Del(t.Context(), n.Network(), db, "eth0"))
	must(t, db.Delete())
	netnstest.Eventually(t, func() error {
		if left := socketsOf(t, n); left != 1 { // web's
			return fmt.Errorf("podwalld has %d sockets of nflog, want one", left)
		}
		return nil
	})
}

// followed counts the events in a file that policyctl writes.
func followed(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	whole := b[:strings.LastIndex(string(b), "\n")+1]
	events, err := eventsIn(string(whole))
	must(t, err)
	return len(events)
}

// socketsOf counts podwalld's descriptors that are netlink sockets out of the way
// of the low numbers.
func socketsOf(t *testing.T, n *lab.Node) (count int) {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Pid()))
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", n.Pid(), fd.Name())); err == nil && len(fd.Name()) >= 4 && strings.HasPrefix(to, "socket:") {
			count++
		}
	}
	return count
}

const auditedPod = `apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, annotations: {podwall.io/audit: "%t"}}
spec: {containers: [{name: main}]}
`

// Audit is honoured where it is permitted, is seen wherever one looks, and ends
// at once, also for connections that are open.
func TestAudit(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	must(t, n.WriteManifest("policy.yaml", closedShop))
	must(t, n.WriteManifest("db.yaml", fmt.Sprintf(auditedPod, true)))
	config := filepath.Join(n.Dir, "podwalld.yaml")
	must(t, os.WriteFile(config, []byte("podAnnotations: []\n"), 0o600))
	must(t, n.Start(t.Context(), "--config", config))
	web, db := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "db")
	expect(t, refused(web, db))
	says := func(want bool, text string, args ...string) {
		t.Helper()
		netnstest.Eventually(t, func() error {
			out, err := n.Policyctl(t.Context(), args...)
			if err == nil && strings.Contains(out, text) != want {
				err = fmt.Errorf("policyctl %q says %q: %v, want %v\n%s", args, text, !want, want, out)
			}
			return err
		})
	}
	says(true, "metadata.annotations[podwall.io/audit]: not honoured on this node", "status")
	must(t, os.WriteFile(config, []byte("podAnnotations: [audit]\n"), 0o600))
	must(t, syscall.Kill(n.Pid(), syscall.SIGHUP))
	passes := refused(web, db)
	passes.Pass = true
	expect(t, passes)
	says(false, "not honoured", "status")
	says(true, "1 audited", "status")
	says(true, "ingress (audit)", "get", "pods")
	says(true, "audit: NetworkPolicies are not enforced", "inspect", "shop/db")
	says(true, `"audit": true`, "inspect", "shop/db", "-o", "json")
	says(true, "NetworkPolicy shop/db isolates the pod for ingress", "monitor", "--no-follow", "--verdict", "audit", "--pod", "shop/db", "--peer", "shop/web")
	open, err := passes.Dial(t.Context())
	must(t, err)
	defer open.Close()
	must(t, n.WriteManifest("db.yaml", fmt.Sprintf(auditedPod, false)))
	expect(t, refused(web, db))
	must(t, open.SetDeadline(time.Now().Add(300*time.Millisecond)))
	_, _ = open.Write([]byte("x")) // it goes into the socket's buffer at least
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that only the audit let pass goes on after it")
	}
}

// Accepted flows are remembered where a namespace asks for it, with the labels
// of both ends.
func TestObserve(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	must(t, n.WriteManifest("shop.yaml", `apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {podwall.io/observe: "true"}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
`))
	must(t, n.Start(t.Context(), "--pod-annotations", "observe"))
	web, db := addPod(t, n, "shop", "web"), addPod(t, n, "shop", "db")
	passes := refused(web, db)
	passes.Pass = true
	expect(t, passes)
	netnstest.Eventually(t, func() error {
		var list api.FlowList
		if err := (api.Client{Socket: n.Socket()}).Call(t.Context(), api.VerbFlows, api.FlowsRequest{}, &list, nil); err != nil {
			return err
		}
		sides := map[ruleset.Direction]bool{}
		for _, f := range list.Flows {
			if f.To.Port == 80 && f.Verdict == ruleset.Accepted && f.From.Labels["app"] == "web" && f.To.Name() == "shop/db" &&
				f.To.NamespaceLabels["kubernetes.io/metadata.name"] == "shop" {
				sides[f.Direction] = true
			}
		}
		if len(sides) != 2 {
			return fmt.Errorf("flows %+v, want web's to db as both ends see it", list.Flows)
		}
		return nil
	})
}
