package main

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
)

// The unit's command line is one that podwalld takes, and its directories are
// where podwalld writes: the rest of the file system is read-only for it.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("systemd/podwalld.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			unit[key] = value
		}
	}
	cfg := daemonconf.Default()
	args := strings.Fields(unit["ExecStart"])[1:]
	for i := 0; i < len(args); i += 2 {
		if err := cfg.Set(strings.TrimPrefix(args[i], "--"), args[i+1]); err != nil {
			t.Errorf("ExecStart: %v", err)
		}
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("ExecStart: %v", err)
	}
	for _, d := range []struct{ key, root, file string }{
		{"RuntimeDirectory", "/run/", cfg.Socket},
		{"StateDirectory", "/var/lib/", cfg.StateDir + "/state.db"},
		{"ConfigurationDirectory", "/etc/", cfg.PolicyDir + "/policy.yaml"},
	} {
		if dir := d.root + unit[d.key]; !strings.HasPrefix(d.file, dir+"/") {
			t.Errorf("%s is %s, and podwalld uses %s", d.key, dir, d.file)
		}
	}
	// The demonstration of integration/demo fails without either of these.
	for _, needed := range []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"} {
		if !slices.Contains(strings.Fields(unit["CapabilityBoundingSet"]), needed) {
			t.Errorf("%s is missing", needed)
		}
	}
}

// What the settings of the package name are flags: of directories, of run as of
// remove, and of the entry, of run.
func TestSettings(t *testing.T) {
	text, err := os.ReadFile("pack/debian/podwall.default")
	if err != nil {
		t.Fatal(err)
	}
	dirs, entry, _ := strings.Cut(string(text), "\nPODWALL_DIRS=")
	root := program{stdout: io.Discard, stderr: io.Discard, executable: os.Executable, getenv: os.Getenv}.root()
	for _, tt := range []struct {
		text     string
		commands []string
	}{{dirs, []string{"run", "remove"}}, {entry, []string{"run"}}} {
		flags := regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(tt.text, -1)
		if len(flags) < 3 {
			t.Errorf("%d flags in\n%s", len(flags), tt.text)
		}
		for _, name := range tt.commands {
			cmd, _, err := root.Find([]string{name})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range flags {
				if cmd.Flag(f[1]) == nil && f[1] != "help" {
					t.Errorf("%s has no --%s", name, f[1])
				}
			}
		}
	}
	unit, err := os.ReadFile("systemd/podwall-install.service")
	if err != nil || !strings.Contains(string(unit), "podwall-install run $PODWALL_DIRS $PODWALL_ENTRY\n") {
		t.Errorf("the unit starts something else: %v", err)
	}
}
