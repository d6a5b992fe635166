package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/internal/logtest"
)

// keep starts "run" and returns its log. stop ends it as SIGTERM does, and is
// called at the end in any case.
func (h *host) keep() (log *logtest.Buffer, stop func()) {
	h.t.Helper()
	return h.keepWith(func(string) string { return "" })
}

// keepWith is keep in an environment, with more flags.
func (h *host) keepWith(getenv func(string) string, more ...string) (log *logtest.Buffer, stop func()) {
	h.t.Helper()
	log = &logtest.Buffer{}
	p := program{stdout: log, stderr: log, executable: os.Executable, getenv: getenv}
	ctx, cancel := context.WithCancel(h.t.Context())
	var g errgroup.Group
	g.Go(func() error {
		if status := p.run(ctx, h.args("run", more...)); status != exitDone {
			return errors.New("run did not end well:\n" + log.String())
		}
		return nil
	})
	stop = func() {
		cancel()
		if err := g.Wait(); err != nil {
			h.t.Error(err)
		}
	}
	h.t.Cleanup(stop)
	return log, stop
}

// eventually demands that ok becomes true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// On a new node the CNI comes after podwall: its directory, then its network.
func TestRunWaitsAndHeals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if err := os.Remove(h.confs); err != nil {
		t.Fatal(err)
	}
	log, stop := h.keep()
	path, plugin := h.confs+"/10-flannel.conflist", h.cniBin+"/podwall"
	eventually(t, "the plugin is there", func() bool { return h.read(plugin) != "" })
	if err := os.Mkdir(h.confs, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write(path, flannel)
	eventually(t, "chained", func() bool { return h.read(path) == chained })
	contains(t, "log", log.String(), "wait for a network")

	h.write(path, flannel)
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	eventually(t, "healed", func() bool { return h.read(path) == chained && h.read(plugin) != "" })
	h.write(h.confs+"/00-new.conf", macvlan)
	eventually(t, "a new network is chained", func() bool { return h.read(h.confs+"/00-new.conf") == "" })
	h.write(h.confs+"/30-half.conflist", `{"name": `)
	eventually(t, "a bad file is reported", func() bool { return strings.Contains(log.String(), "30-half.conflist") })
	before := h.tree()
	stop()
	if got := h.tree(); len(got) != len(before) || h.read(path) != chained {
		t.Error("stopping run changed files")
	}
	h.must(exitDone, "status")
}

// Another writer insists for two seconds, in place and by renaming. Podwall writes
// at most once a second, says so, and is there when the other gives up.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	path := h.confs + "/10-flannel.conflist"
	h.write(path, flannel)
	log, _ := h.keep()
	eventually(t, "chained", func() bool { return h.read(path) == chained })
	newer := strings.Replace(flannel, "cbr0", "cbr1", 1)
	begin := time.Now()
	for i := 0; time.Since(begin) < 2*time.Second; i++ {
		if i%2 == 0 {
			h.write(path, flannel)
		} else {
			h.write(h.dir+"/other", newer)
			if err := os.Rename(h.dir+"/other", path); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.write(path, newer)
	want := strings.Replace(chained, "cbr0", "cbr1", 1)
	eventually(t, "chained in the other's last file", func() bool { return h.read(path) == want })
	took := time.Since(begin)
	var heals []string
	eventually(t, "the log names the file and says how often", func() bool {
		heals = regexp.MustCompile(`another program changes.* file=`+path+` times=\d+`).FindAllString(log.String(), -1)
		return len(heals) > 0
	})
	if most := int(took/time.Second) + 1; len(heals) > most {
		t.Errorf("%d writes in %v", len(heals), took)
	}
}

// However often the installer is killed, what a runtime reads is whole, and no
// network is missing.
func TestKilledInstall(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	path, single := h.confs+"/10-flannel.conflist", h.confs+"/20-lan.conf"
	h.write(path, flannel)
	h.write(single, macvlan)
	versions := []string{"\x001" + strings.Repeat("x", 8<<20), "\x002" + strings.Repeat("y", 8<<20)}
	plugins := append([]string{""}, versions...)
	whole := func() {
		t.Helper()
		if got := h.read(h.cniBin + "/podwall"); !slices.Contains(plugins, got) {
			t.Fatalf("the plugin has %d bytes, beginning %.2q", len(got), got)
		}
		if l, err := libcni.NetworkConfFromFile(path); err != nil || l.Name != "cbr0" {
			t.Fatalf("libcni: %v", err)
		}
	}
	interrupted := 0 // killed in the middle of a copy
	for i := range 40 {
		h.write(h.source+"/podwall", versions[i%2])
		command := []string{"install", "--failure-policy", []string{"closed", "open"}[i%2]}
		if i%5 == 4 {
			command = []string{"remove"}
		}
		cmd := exec.Command(os.Args[0], h.args(command[0], command[1:]...)...)
		cmd.Env = append(os.Environ(), "PODWALL_INSTALL=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*7%60) * time.Millisecond)
		whole()
		_ = cmd.Process.Kill() // it may be done
		_ = cmd.Wait()         // killed, or done
		whole()
		if _, err := libcni.LoadNetworkConf(h.confs, "lan"); err != nil {
			t.Fatalf("libcni: %v", err)
		}
		if left, _ := filepath.Glob(h.cniBin + "/.podwall-install-*.tmp"); len(left) > 0 {
			interrupted++
		}
	}
	if interrupted == 0 {
		t.Error("no kill came in the middle of a copy, so nothing was shown")
	}
	h.must(exitDone, "install")
	for name := range h.tree() {
		if strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s was left behind", name)
		}
	}
	h.must(exitDone, "remove")
	if h.read(path) != flannel || h.read(single) != macvlan {
		t.Errorf("after remove:\n%s%s", h.read(path), h.read(single))
	}
}
