package integration

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/daemon/doctor"
)

// A node that works is found to be well, by the programs that run there, and a
// bundle of it has each pod's rules as the kernel has them.
func TestDoctor(t *testing.T) {
	n := startNode(t, closed)
	addPod(t, n, "shop", "web")
	addPod(t, n, "shop", "api")
	networks := t.TempDir()
	list, err := n.Network().WithChain(n.Podwall()).Conflist()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(networks, "10-lab.conflist"), list, 0o600))
	bundle := filepath.Join(t.TempDir(), "b.tar.gz")
	// Clock and sysctls are this machine's, not the lab's; warnings are its affair.
	out, err := n.Policyctl(t.Context(), "doctor", "-o", "json", "--bundle", bundle, "--config", "/none",
		"--cni-bin-dir", filepath.Dir(n.Binary("podwall")), "--cni-conf-dir", networks, "--cni-cache-dir", n.CNICache())
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var results []doctor.Result
	must(t, json.Unmarshal([]byte(out), &results))
	found := map[string]doctor.Result{}
	for _, r := range results {
		found[r.Check] = r
	}
	for _, check := range []string{"kernel", "plugin", "chain", "last pod", "socket", "daemon", "version", "source", "policy", "store", "pods"} {
		if found[check].Verdict != doctor.OK {
			t.Errorf("%s: %+v", check, found[check])
		}
	}
	rules, inspections := 0, 0
	for name, text := range unpacked(t, bundle) {
		switch {
		case strings.Contains(name, "/nft/") && strings.HasSuffix(name, ".inet") && strings.Contains(text, "table inet podwall"):
			rules++
		case strings.Contains(name, "/inspect/") && strings.Contains(text, `"inSync": true`):
			inspections++
		}
	}
	if rules != 2 || inspections != 2 {
		t.Errorf("%d rule sets and %d inspections, want those of two pods", rules, inspections)
	}
	must(t, n.Kill())
	if _, err := n.Policyctl(t.Context(), "doctor", "--cni-cache-dir", n.CNICache()); err == nil {
		t.Error("nothing is wrong though podwalld was killed")
	}
}

// unpacked is the files of a bundle.
func unpacked(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		files[h.Name] = string(text)
	}
}
