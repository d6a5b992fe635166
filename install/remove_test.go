package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"testing"
	"time"
)

// sandbox puts an entry of a pod that is in the chain into libcni's cache, and
// returns what to call when the pod is gone.
func (h *host) sandbox(id string) (gone func()) {
	h.t.Helper()
	netns := h.dir + "/netns-" + id
	h.write(netns, "")
	if err := os.MkdirAll(h.cache+"/results", 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.write(h.cache+"/results/cbr0-"+id+"-eth0", fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "config": %q, "ifName": "eth0",
		"networkName": "cbr0", "netns": %q, "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", %[1]q]]}`,
		id, base64.StdEncoding.EncodeToString([]byte(chained)), netns))
	return func() {
		if err := os.Remove(netns); err != nil {
			h.t.Error(err)
		}
	}
}

// The chain entry goes at once, the binary stays for the pods that are there.
func TestRemoveKeepsBinaryForSandboxes(t *testing.T) {
	h := newHost(t)
	path, plugin := h.confs+"/10-flannel.conflist", h.cniBin+"/podwall"
	h.write(path, flannel)
	h.must(exitDone, "install")
	first, second := h.sandbox("web"), h.sandbox("db")

	stdout, stderr := h.must(exitNeeded, "remove")
	contains(t, "remove", stdout, "took podwall out of network cbr0")
	contains(t, "remove", stderr, plugin+" stays until these sandboxes are gone:\n", "  shop/db (eth0 on cbr0)\n", "  shop/web (eth0 on cbr0)\n")
	if h.read(path) != flannel || h.read(plugin) == "" || h.read(h.bin+"/policyctl") == "" {
		t.Errorf("chain:\n%splugin %q", h.read(path), h.read(plugin))
	}
	first()
	_, stderr = h.must(exitNeeded, "remove", "--wait", "10ms")
	contains(t, "remove --wait", stderr, "shop/db")
	time.AfterFunc(100*time.Millisecond, second)
	stdout, _ = h.must(exitDone, "remove", "--wait", "10s")
	contains(t, "remove --wait", stdout, "waiting for 1 sandboxes, among them shop/db", "removed "+plugin)
	if h.read(plugin) != "" || h.read(h.bin+"/policyctl") != "" {
		t.Error("binaries are still there")
	}
}

// A binary that a network still names is not removed.
func TestRemoveFindsPodwallChainedAgain(t *testing.T) {
	h := newHost(t)
	path, plugin := h.confs+"/10-flannel.conflist", h.cniBin+"/podwall"
	h.write(path, flannel)
	h.must(exitDone, "install")
	gone := h.sandbox("web")
	time.AfterFunc(100*time.Millisecond, func() {
		h.write(path, chained)
		gone()
	})
	_, stderr := h.must(exitFailed, "remove", "--wait", "10s")
	contains(t, "remove", stderr, path+": podwall is chained again, so its binary stays: stop \"podwall-install run\" before remove")
	if h.read(plugin) == "" {
		t.Error("the plugin is gone")
	}
	h.write(path, `{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "podwall"}]}`)
	_, stderr = h.must(exitFailed, "remove")
	contains(t, "remove", stderr, path+": field plugins: no plugin but podwall, so its binary stays")
}
