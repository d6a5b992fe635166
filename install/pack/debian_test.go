package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// packDebian runs the command, and returns the packages by their names.
func packDebian(t *testing.T, args ...string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	args = append([]string{"debian", "-o", dir, "-licence", root + "/LICENSE", "-notices", root + "/LICENSE", "-units", root + "/install/systemd"}, args...)
	if err := run(args, io.Discard); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	packages := make(map[string][]byte)
	for _, e := range entries {
		if packages[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return packages
}

// members takes an ar file apart.
func members(t *testing.T, text []byte) map[string]string {
	t.Helper()
	rest, ok := bytes.CutPrefix(text, []byte("!<arch>\n"))
	if !ok {
		t.Fatalf("an ar file begins %.10q", text)
	}
	files := make(map[string]string)
	for len(rest) > 0 {
		head := string(rest[:60])
		size, err := strconv.Atoi(strings.TrimSpace(head[48:58]))
		if err != nil || head[58:] != "`\n" {
			t.Fatalf("head %q", head)
		}
		files[strings.TrimSpace(head[:16])] = string(rest[60 : 60+size])
		rest = rest[60+size+size%2:]
	}
	return files
}

// A package has all that a node needs, owned by root, and dpkg can check it.
func TestPackage(t *testing.T) {
	packages := packDebian(t, append([]string{"-version", "v1.2.3", "-date", "1700000000"}, build(t)...)...)
	for _, arch := range []string{"amd64", "arm64"} {
		parts := members(t, packages["podwall_1.2.3_"+arch+".deb"])
		if parts["debian-binary"] != "2.0\n" {
			t.Fatalf("%s: members %v", arch, len(parts))
		}
		about, files := untar(t, unzip(t, parts["control.tar.gz"])), untar(t, unzip(t, parts["data.tar.gz"]))
		for _, line := range []string{"Package: podwall\n", "Version: 1.2.3\n", "Architecture: " + arch + "\n"} {
			if !strings.Contains(about["control"].body, line) {
				t.Errorf("control has no %q:\n%s", line, about["control"].body)
			}
		}
		want := []string{"etc/default/podwall", "usr/bin/podwall-install", "usr/bin/podwalld", "usr/bin/policyctl", "usr/lib/podwall/podwall",
			"usr/lib/podwall/podwall-install", "usr/lib/systemd/system/podwall-install.service", "usr/lib/systemd/system/podwalld.service",
			"usr/share/doc/podwall/NOTICES", "usr/share/doc/podwall/copyright"}
		var got []string
		for path, f := range files {
			if f.Uid != 0 || f.Gid != 0 || f.FileInfo().Mode().Perm()&0o022 != 0 && f.Linkname == "" {
				t.Errorf("%s: %v of %d:%d", path, f.FileInfo().Mode(), f.Uid, f.Gid)
			}
			if !f.FileInfo().IsDir() {
				got = append(got, path)
			}
			sum := fmt.Sprintf("%x  %s\n", md5.Sum([]byte(f.body)), path)
			if listed := strings.Contains(about["md5sums"].body, sum); listed != (f.FileInfo().Mode().IsRegular() && path != "etc/default/podwall") {
				t.Errorf("%s: in md5sums: %v", path, listed)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: files %v, want %v", arch, got, want)
		}
		for _, unit := range []string{"podwalld", "podwall-install"} {
			text := files["usr/lib/systemd/system/"+unit+".service"].body
			if !strings.Contains(text, "\nExecStart=/usr/bin/"+unit+" ") || strings.Contains(text, "/usr/local/") {
				t.Errorf("%s starts something else", unit)
			}
		}
	}
}

func TestPackageIsReproducible(t *testing.T) {
	one, two := packDebian(t, build(t)...), packDebian(t, build(t)...)
	if len(one) != 2 {
		t.Fatalf("%d packages", len(one))
	}
	for name := range one {
		if !bytes.Equal(one[name], two[name]) {
			t.Errorf("%s is different the second time", name)
		}
	}
}

// dpkg takes the versions, and orders them as they came.
func TestDebianVersion(t *testing.T) {
	last := ""
	for _, tt := range []struct{ version, want string }{
		{"0a1b2c3", "0~0a1b2c3"},
		{"7c52bf1-dirty", "0~7c52bf1+dirty"},
		{"dev", "0~dev"},
		{"v0.1.0", "0.1.0"},
		{"v0.1.0-3-gabc1234", "0.1.0+3+gabc1234"},
		{"v0.2.0", "0.2.0"},
	} {
		got := debianVersion(tt.version)
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.version, got, tt.want)
		}
		if last != "" {
			if out, err := exec.Command("dpkg", "--compare-versions", last, "lt", got).CombinedOutput(); err != nil {
				t.Errorf("dpkg: %s is not older than %s: %v %s", last, got, err, out)
			}
		}
		last = got
	}
}

// TestOnANode installs the package of the built binaries with dpkg, on a copy of
// this machine's files, and removes it while a sandbox needs the plugin and when
// none does.
func TestOnANode(t *testing.T) {
	packages := packDebian(t, runtime.GOARCH+"="+root+"/bin")
	dir := t.TempDir()
	for _, pkg := range packages {
		if err := os.WriteFile(filepath.Join(dir, "podwall.deb"), pkg, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("testdata/node.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "bash", script, dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
