package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/install/confdir"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/logtest"
)

const taintKey = "podwall.io/agent-not-ready"

// A fakeCluster is an API server with one node and one DaemonSet.
type fakeCluster struct {
	t       *testing.T
	account string
	address string

	mu        sync.Mutex
	taints    []map[string]string
	runtime   string
	labels    map[string]string
	selector  map[string]string
	deleted   bool
	forbidden []string // verb resource
	watching  chan struct{}
	events    chan string
}

func newCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, account: t.TempDir(), runtime: "containerd://2.3.7", watching: make(chan struct{}, 100), events: make(chan string, 10)}
	s := httptest.NewTLSServer(c)
	t.Cleanup(func() {
		s.CloseClientConnections() // watches
		s.Close()
	})
	c.address = strings.TrimPrefix(s.URL, "https://")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for name, text := range map[string]string{"token": "secret", "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(c.account, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// getenv is what Kubernetes tells a pod.
func (c *fakeCluster) getenv(name string) string {
	host, port, _ := net.SplitHostPort(c.address)
	return map[string]string{"NODE_NAME": "n1", "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}[name]
}

// change is what somebody does to the cluster.
func (c *fakeCluster) change(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// keys are the keys of the node's taints.
func (c *fakeCluster) keys() (keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.taints {
		keys = append(keys, t["key"])
	}
	return keys
}

func (c *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verb := strings.ToLower(r.Method)
	watch := r.URL.Query().Get("watch") != ""
	if watch {
		verb = "watch"
	}
	resource := "nodes"
	if strings.Contains(r.URL.Path, "daemonsets") {
		resource = "daemonsets"
	}
	c.mu.Lock()
	forbidden := slices.Contains(c.forbidden, verb+" "+resource)
	c.mu.Unlock()
	switch {
	case forbidden:
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, `{"message": "cannot %s resource %s"}`, verb, resource)
	case watch:
		c.watch(w, r)
	case resource == "daemonsets":
		c.daemonSet(w)
	default:
		c.node(w, r)
	}
}

func (c *fakeCluster) watch(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, `{"type": "ADDED", "object": {}}`+"\n")
	w.(http.Flusher).Flush()
	c.watching <- struct{}{}
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-c.events:
			_, _ = io.WriteString(w, e)
			w.(http.Flusher).Flush()
		}
	}
}

func (c *fakeCluster) daemonSet(w http.ResponseWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"nodeSelector": c.selector}}}})
}

func (c *fakeCluster) node(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method == http.MethodPatch {
		var patch struct {
			Spec struct{ Taints []map[string]string }
		}
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
			c.t.Error(err)
		}
		c.taints = patch.Spec.Taints
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"labels": c.labels}, "spec": map[string]any{"taints": c.taints},
		"status": map[string]any{"nodeInfo": map[string]any{"containerRuntimeVersion": c.runtime}}})
}

// daemon is a podwalld that says whether it is ready.
func daemon(t *testing.T, path string, ready bool) (stop func()) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c := api.NewConn(nc, api.MaxRequest)
			verb := api.VerbDone
			if !ready {
				verb = api.VerbError
			}
			if _, _, err := c.Receive(t.Context()); err == nil {
				_ = c.Send(t.Context(), verb, api.Error{Message: "the source has not synced"}, -1) // the client may have gone
			}
			_ = c.Close()
		}
	})
	return func() {
		_ = l.Close()
		all.Wait()
	}
}

// socket is a path for a socket, which must be short.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "podwall")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir + "/s"
}

// keepIn is keep, as the DaemonSet does it.
func (h *host) keepIn(c *fakeCluster, socket string) (log *logtest.Buffer, stop func()) {
	return h.keepWith(c.getenv, "--service-account", c.account, "--daemonset", "podwall/podwall", "--taint", taintKey,
		"--socket", socket, "--settle", "10ms")
}

// The taint goes when a new pod gets its firewall, and not before: the network is
// chained and the daemon is ready.
func TestTaintGoesLast(t *testing.T) {
	t.Parallel()
	h, c, at := newHost(t), newCluster(t), socket(t)
	c.taints = []map[string]string{{"key": "theirs", "effect": "NoExecute"}, {"key": taintKey, "effect": "NoSchedule"}}
	log, _ := h.keepIn(c, at)
	path := h.confs + "/10-flannel.conflist"
	eventually(t, "the plugin is there", func() bool { return h.read(h.cniBin+"/podwall") != "" })
	stop := daemon(t, at, false)
	h.write(path, flannel)
	eventually(t, "chained", func() bool { return strings.Contains(h.read(path), "podwall") })
	time.Sleep(gateEvery + gateEvery/2)
	if got := c.keys(); len(got) != 2 {
		t.Errorf("taints %v while the daemon is not ready", got)
	}
	stop()
	defer daemon(t, at, true)()
	eventually(t, "untainted", func() bool { return slices.Equal(c.keys(), []string{"theirs"}) })
	eventually(t, "said so", func() bool { return strings.Contains(log.String(), "taint is taken away") })
}

// A network that podwall can't be chained in would leave pods bare: none may come.
func TestTaintComesBack(t *testing.T) {
	t.Parallel()
	h, c := newHost(t), newCluster(t)
	h.write(h.confs+"/10-old.conflist", `{"name": "old", "cniVersion": "0.2.0", "plugins": [{"type": "bridge"}]}`)
	log, _ := h.keepIn(c, "/nowhere/s")
	eventually(t, "tainted", func() bool { return slices.Equal(c.keys(), []string{taintKey}) })
	eventually(t, "said so", func() bool { return strings.Contains(log.String(), "the node is tainted") })
}

// Where somebody does not let podwall stay in the network, pods would be lucky or
// bare: none may come. Whoever chose an open policy has chosen that.
func TestContestedNetworkIsShut(t *testing.T) {
	h, at := newHost(t), socket(t)
	defer daemon(t, at, true)()
	h.write(h.confs+"/10-flannel.conflist", flannel)
	h.must(exitDone, "install")
	for _, tt := range []struct {
		policy    string
		contested bool
		want      verdict
	}{{"closed", false, open}, {"closed", true, shut}, {"open", true, open}} {
		n := &node{cniBin: h.cniBin, policy: tt.policy, dir: confdir.Dir{Path: h.confs, Entry: []byte(`{"type": "podwall"}`)}}
		n.entry.Socket = at
		n.contested.Store(tt.contested)
		if got := n.protects(t.Context()); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

// What RBAC lacks is said by name, once.
func TestMissingVerbs(t *testing.T) {
	t.Parallel()
	h, c, at := newHost(t), newCluster(t), socket(t)
	defer daemon(t, at, true)()
	c.taints = []map[string]string{{"key": taintKey}}
	c.forbidden = []string{"patch nodes", "watch daemonsets"}
	h.write(h.confs+"/10-flannel.conflist", flannel)
	log, _ := h.keepIn(c, at)
	for _, want := range []string{`give podwall's role the verb \"patch\" on nodes`, `give podwall's role the verb \"watch\" on daemonsets`} {
		eventually(t, want, func() bool { return strings.Contains(log.String(), want) })
	}
	time.Sleep(2 * gateEvery)
	if n := strings.Count(log.String(), "change the node's taint"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	c.change(func() { c.forbidden = nil })
	eventually(t, "untainted", func() bool { return len(c.keys()) == 0 })
}

// Whoever stops the installer does not thereby open the firewall: it goes only if
// it is known that this node is not to have it.
func TestLeaving(t *testing.T) {
	tests := []struct {
		name    string
		happens func(c *fakeCluster)
		removed bool
		says    string
	}{
		{"restart or upgrade", func(*fakeCluster) {}, false, "everything stays in place"},
		{"DaemonSet deleted", func(c *fakeCluster) { c.deleted = true }, true, "no longer wanted"},
		{"all deleted at once, what permits to ask first", func(c *fakeCluster) {
			c.forbidden = []string{"get daemonsets", "watch daemonsets", "get nodes"}
			c.events <- `{"type": "DELETED", "object": {}}`
		}, true, "no longer wanted"},
		{"DaemonSet is for other nodes now", func(c *fakeCluster) { c.selector = map[string]string{"firewall": "yes"} }, true, "no longer wanted"},
		{"permission lost, DaemonSet there", func(c *fakeCluster) { c.forbidden = []string{"get daemonsets"} }, false, `the verb \"get\" on daemonsets`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, c, at := newHost(t), newCluster(t), socket(t)
			defer daemon(t, at, true)()
			path := h.confs + "/10-flannel.conflist"
			h.write(path, flannel)
			log, stop := h.keepIn(c, at)
			eventually(t, "chained", func() bool { return strings.Contains(h.read(path), "podwall") })
			<-c.watching
			gone := h.sandbox("web")
			defer gone()
			c.change(func() { tt.happens(c) })
			eventually(t, "heard", func() bool { return len(c.events) == 0 })
			stop()
			if got := h.read(path) == flannel; got != tt.removed {
				t.Errorf("removed %v, want %v\n%s", got, tt.removed, log)
			}
			if h.read(h.cniBin+"/podwall") == "" {
				t.Error("the plugin is gone, and a sandbox needs it")
			}
			contains(t, "log", log.String(), tt.says)
		})
	}
}

// A network gets a newer cniVersion only where the node's runtime speaks it.
func TestRuntimeSpeaks(t *testing.T) {
	tests := []struct {
		runtime, version, want string
	}{
		{"containerd://2.3.7", "1.1.0", ""},
		{"containerd://2.0.4-k3s2", "1.1.0", ""},
		{"containerd://1.7.27", "1.1.0", "runtime containerd://1.7.27 speaks CNI up to 1.0.0"},
		{"containerd://1.6.20~ds1", "1.0.0", ""},
		{"containerd://1.5.0", "1.0.0", "runtime containerd://1.5.0 speaks CNI up to 0.4.0"},
		{"containerd://99999999999999999999.0", "1.1.0", ""},
		{"cri-o://1.34.0", "1.1.0", ""},
		{"cri-o://1.20.0", "1.0.0", "runtime cri-o://1.20.0: it is not known what it speaks"},
		{"docker://28.0", "1.0.0", "runtime docker://28.0: it is not known what it speaks"},
		{"", "1.0.0", `runtime "": not known here`},
	}
	for _, tt := range tests {
		got := ""
		if err := speaks(tt.runtime, tt.version); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s and %s: %q, want %q", tt.runtime, tt.version, got, tt.want)
		}
	}
}

// In a cluster install asks which runtime the node has.
func TestCNIVersionAsksRuntime(t *testing.T) {
	h, c := newHost(t), newCluster(t)
	path := h.confs + "/10-one.conflist"
	one := `{"name": "one", "cniVersion": "0.3.1", "plugins": [{"type": "speaker"}]}`
	if err := os.WriteFile(h.cniBin+"/speaker", []byte("#!/bin/sh\necho '{\"cniVersion\": \"1.1.0\", \"supportedVersions\": [\"0.3.1\", \"1.1.0\"]}'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ runtime, has, says string }{
		{"containerd://1.7.0", `"0.3.1"`, "speaks CNI up to 1.0.0"},
		{"containerd://2.1.0", `"1.1.0"`, "chained podwall in network one"},
	} {
		h.write(path, one)
		c.change(func() { c.runtime = tt.runtime })
		status, stdout, stderr := h.doWith(t.Context(), c.getenv, h.args("install", "--cni-version", "1.1.0", "--service-account", c.account))
		if status != exitDone || !strings.Contains(h.read(path), tt.has) || !strings.Contains(stdout+stderr, tt.says) {
			t.Errorf("%s: exit status %d\n%s%s%s", tt.runtime, status, stdout, stderr, h.read(path))
		}
	}
}

// A drop-in file that the runtime does not read would be no firewall at all.
func TestDropInAsksRuntime(t *testing.T) {
	h, c := newHost(t), newCluster(t)
	h.write(h.confs+"/10-flannel.conflist", flannel)
	for _, tt := range []struct {
		runtime string
		want    int
	}{{"containerd://2.0.5", exitUsage}, {"docker://28.0", exitUsage}, {"containerd://2.1.0", exitDone}} {
		c.change(func() { c.runtime = tt.runtime })
		status, _, stderr := h.doWith(t.Context(), c.getenv, h.args("install", "--drop-in", "--service-account", c.account))
		if status != tt.want || (status != exitDone && !strings.Contains(stderr, tt.runtime)) {
			t.Errorf("%s: exit status %d, %s", tt.runtime, status, stderr)
		}
	}
	if h.read(h.confs+"/10-flannel.conflist") != flannel || h.read(h.confs+"/cbr0/zz-podwall.conf") == "" {
		t.Error("not beside the network")
	}
}

func TestClusterFlags(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{"--daemonset", "podwall"}, {"--daemonset", "/x", "--node-name", "n1"}, {"--taint", taintKey}} {
		_, stderr := h.must(exitUsage, "run", args...)
		contains(t, "run", stderr, "--")
	}
}
