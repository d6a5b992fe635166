package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	flannel = `{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel"},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
	chained = `{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel"},
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "podwall"}
  ]
}
`
	macvlan = `{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan"}`
)

// TestMain makes the test binary podwall-install where a test starts it as such.
func TestMain(m *testing.M) {
	if os.Getenv("PODWALL_INSTALL") != "" {
		main()
	}
	os.Exit(m.Run())
}

// A host is a node in a directory.
type host struct {
	t                          *testing.T
	dir                        string
	source, cniBin, bin, confs string
	cache                      string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir, source: dir + "/source", cniBin: dir + "/cni-bin", bin: dir + "/bin", confs: dir + "/net.d", cache: dir + "/cache"}
	for _, d := range []string{h.source, h.cniBin, h.bin, h.confs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append([]string{"podwall"}, others...) {
		h.write(h.source+"/"+name, "\x00"+name+" 1")
	}
	return h
}

// args are a command with the flags that name the host's directories.
func (h *host) args(command string, more ...string) []string {
	return append([]string{command, "--source", h.source, "--cni-bin-dir", h.cniBin, "--bin-dir", h.bin,
		"--cni-conf-dir", h.confs, "--cni-cache-dir", h.cache}, more...)
}

// do runs a command in this process.
func (h *host) do(ctx context.Context, args []string) (status int, stdout, stderr string) {
	return h.doWith(ctx, func(string) string { return "" }, args)
}

// doWith is do in an environment.
func (h *host) doWith(ctx context.Context, getenv func(string) string, args []string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	p := program{stdout: &out, stderr: &err, executable: os.Executable, getenv: getenv}
	status = p.run(ctx, args)
	return status, out.String(), err.String()
}

// must runs a command and demands its exit status.
func (h *host) must(want int, command string, more ...string) (stdout, stderr string) {
	h.t.Helper()
	status, stdout, stderr := h.do(h.t.Context(), h.args(command, more...))
	if status != want {
		h.t.Errorf("%s %v: exit status %d, want %d\n%s%s", command, more, status, want, stdout, stderr)
	}
	return stdout, stderr
}

func (h *host) write(path, text string) {
	h.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// tree is all that is on the host.
func (h *host) tree() map[string]string {
	h.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, h.dir+"/")] = string(b)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return files
}

// contains demands that text has each of the parts in it.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}

func TestInstallAndRemove(t *testing.T) {
	h := newHost(t)
	h.write(h.confs+"/10-flannel.conflist", flannel)
	h.write(h.confs+"/20-lan.conf", macvlan)
	before := h.tree()

	stdout, _ := h.must(exitDone, "install")
	contains(t, "install", stdout, "copied "+h.cniBin+"/podwall\n", "chained podwall in network cbr0 ("+h.confs+"/10-flannel.conflist)")
	if got := h.read(h.confs + "/10-flannel.conflist"); got != chained {
		t.Errorf("got\n%s\nwant\n%s", got, chained)
	}
	for _, path := range []string{h.cniBin + "/podwall", h.bin + "/policyctl", h.bin + "/podwalld", h.bin + "/podwall-install"} {
		if got, want := h.read(path), h.read(h.source+"/"+filepath.Base(path)); got != want || !executable(path) {
			t.Errorf("%s: %q, executable %v", path, got, executable(path))
		}
	}
	installed := h.tree()
	if stdout, _ := h.must(exitDone, "install"); stdout != "" || !maps.Equal(h.tree(), installed) {
		t.Errorf("the second install did something: %s", stdout)
	}
	h.must(exitDone, "status")

	h.must(exitDone, "remove")
	if got := h.tree(); !maps.Equal(got, before) {
		t.Errorf("after remove: %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(before)))
	}
	h.must(exitDone, "remove")
}

// What an init container does: "run" beside the daemon does the rest.
func TestInstallBinariesOnly(t *testing.T) {
	h := newHost(t)
	path := h.confs + "/10-flannel.conflist"
	h.write(path, flannel)
	stdout, stderr := h.must(exitDone, "install", "--binaries-only")
	contains(t, "install", stdout, "copied "+h.cniBin+"/podwall\n")
	if h.read(path) != flannel || h.read(h.cniBin+"/podwall") == "" || stderr != "" {
		t.Errorf("network:\n%sstderr: %s", h.read(path), stderr)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	h := newHost(t)
	h.write(h.confs+"/10-flannel.conflist", flannel)
	before := h.tree()
	stdout, _ := h.must(exitDone, "install", "--dry-run")
	path := h.confs + "/10-flannel.conflist"
	contains(t, "install", stdout, "# write "+h.cniBin+"/podwall: 10 bytes, mode 0755, there is none\n",
		"--- "+path+"\n+++ "+path+"\n@@ -3,6 +3,7 @@\n", "\n+    {\"type\": \"podwall\"}\n")
	if !maps.Equal(h.tree(), before) {
		t.Error("install --dry-run changed files")
	}
	h.must(exitDone, "install")
	before = h.tree()
	stdout, _ = h.must(exitDone, "remove", "--dry-run")
	contains(t, "remove", stdout, "\n-    {\"type\": \"podwall\"}\n", "# remove "+h.cniBin+"/podwall (10 bytes)\n")
	if !maps.Equal(h.tree(), before) {
		t.Error("remove --dry-run changed files")
	}
}

func TestStatus(t *testing.T) {
	h := newHost(t)
	h.write(h.confs+"/00-half.conflist", `{"name": "x", `)
	h.write(h.confs+"/10-flannel.conflist", flannel)
	h.write(h.confs+"/20-old.conflist", `{"name": "old", "cniVersion": "0.2.0", "plugins": [{"type": "bridge"}]}`)
	h.write(h.cniBin+"/podwall", "\x00podwall 0")
	stdout, _ := h.must(exitFailed, "status", "-o", "json")
	var got struct {
		OK       bool
		Binaries []struct{ File, State string }
		Networks []struct {
			File, Network, CNIVersion, State, Problem string
			Plugins                                   []string
			Selected                                  bool
		}
		Problems []string
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.OK || len(got.Binaries) != 4 || got.Binaries[0].State != "different" || got.Binaries[1].State != "missing" {
		t.Errorf("ok %v, binaries %+v", got.OK, got.Binaries)
	}
	n := got.Networks
	if len(n) != 3 || n[0].State != "unusable" || n[1].State != "unprotected" || !n[1].Selected || n[1].Network != "cbr0" ||
		n[2].State != "unprotected" || !strings.Contains(n[2].Problem, "--cni-version") {
		t.Errorf("networks %+v", n)
	}
	_, stderr := h.must(exitFailed, "install")
	contains(t, "install", stderr, "00-half.conflist: ", "(left alone: no runtime can load it)",
		"20-old.conflist: cniVersion \"0.2.0\"", "(pods on network \"old\" have no firewall)")
	stdout, _ = h.must(exitFailed, "status")
	contains(t, "status", stdout, "10-flannel.conflist", "chained", "problem: ")
	if err := os.Remove(h.confs + "/20-old.conflist"); err != nil {
		t.Fatal(err)
	}
	h.must(exitDone, "status")
	h.must(exitFailed, "status", "--failure-policy", "open")
	stdout, _ = h.must(exitDone, "status", "--source", h.dir) // as on a node that has only the plugin
	contains(t, "status", stdout, "/cni-bin/podwall  present")
	for _, spoil := range []func() error{
		func() error { return os.Chmod(h.cniBin+"/podwall", 0o644) },
		func() error { return os.Remove(h.cniBin + "/podwall") },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		h.must(exitFailed, "status")
		h.must(exitFailed, "status", "--source", h.dir)
	}
}

// Where a binary can't be put in place, pods must not be sent to it; where an
// older one is there, networks are mended all the same.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	h.write(h.confs+"/10-flannel.conflist", flannel)
	mount(t, h.cniBin, 0, "size=64k")
	h.write(h.source+"/podwall", "\x00"+strings.Repeat("x", 1<<20))
	_, stderr := h.must(exitFailed, "install")
	contains(t, "install", stderr, "write "+h.cniBin+"/podwall: no space left on device (free some space")
	if got := h.read(h.confs + "/10-flannel.conflist"); got != flannel {
		t.Errorf("chained without a plugin:\n%s", got)
	}
	h.write(h.cniBin+"/podwall", "\x00older")
	_, stderr = h.must(exitFailed, "install")
	contains(t, "install", stderr, "no space left on device")
	if got := h.read(h.confs + "/10-flannel.conflist"); got != chained {
		t.Errorf("not chained with an older plugin in place:\n%s", got)
	}
	if got := h.read(h.cniBin + "/podwall"); got != "\x00older" {
		t.Errorf("the older plugin is %q now", got)
	}
}

func mount(t *testing.T, dir string, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(h *host) error
		args   []string
		status int
		want   []string
	}{
		{"no binary to copy", func(h *host) error { return os.Remove(h.source + "/podwall") }, []string{"install"}, exitFailed,
			[]string{"source/podwall: no such file or directory (name the directory that holds it with --source)"}},
		{"no plugin directory", func(h *host) error { return os.Remove(h.cniBin) }, []string{"install"}, exitFailed,
			[]string{"write ", "cni-bin/podwall: no such file or directory (make the directory, or name the one that this node's runtime uses)"}},
		{"no network yet", func(h *host) error { return os.Remove(h.confs) }, []string{"install"}, exitDone,
			[]string{"no network in ", "once there is one, install again"}},
		{"wrong policy", nil, []string{"install", "--failure-policy", "ajar"}, exitUsage, []string{"field failurePolicy", "closed"}},
		{"relative socket", nil, []string{"install", "--socket", "x"}, exitUsage, []string{"field socket"}},
		{"unknown flag", nil, []string{"install", "--fast"}, exitUsage, []string{"unknown flag: --fast"}},
		{"unknown command", nil, []string{"uninstall"}, exitUsage, []string{"unknown command"}},
		{"argument", nil, []string{"remove", "all"}, exitUsage, []string{"all"}},
		{"output", nil, []string{"status", "-o", "xml"}, exitUsage, []string{"want table or json"}},
		{"plugins that can't be asked", nil, []string{"install", "--cni-version", "1.1.0"}, exitDone,
			[]string{"cniVersion stays \"0.3.1\"", "plugin flannel"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			if tt.spoil == nil {
				h.write(h.confs+"/10-flannel.conflist", flannel)
			} else if err := tt.spoil(h); err != nil {
				t.Fatal(err)
			}
			_, stderr := h.must(tt.status, tt.args[0], tt.args[1:]...)
			contains(t, "stderr", stderr, tt.want...)
		})
	}
	t.Run("read-only plugin directory", func(t *testing.T) {
		h := newHost(t)
		mount(t, h.cniBin, unix.MS_RDONLY, "")
		_, stderr := h.must(exitFailed, "install")
		contains(t, "stderr", stderr, "read-only file system (name the directory that this node's runtime uses")
	})
}

// A link is followed: the file that it leads to is changed, and the link stays.
func TestSymbolicLink(t *testing.T) {
	h := newHost(t)
	h.write(h.dir+"/real", flannel)
	link := h.confs + "/10-flannel.conflist"
	if err := errors.Join(os.Symlink("../real", link), os.Symlink("nowhere", h.confs+"/20-x.conflist")); err != nil {
		t.Fatal(err)
	}
	_, stderr := h.must(exitDone, "install")
	contains(t, "install", stderr, "20-x.conflist: ", "no such file")
	if to, err := os.Readlink(link); err != nil || to != "../real" || h.read(h.dir+"/real") != chained {
		t.Errorf("link to %q, %v, file:\n%s", to, err, h.read(h.dir+"/real"))
	}
}
