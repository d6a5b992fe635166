package main

import (
	"bytes"
	"crypto/md5"
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// debian has what dpkg runs, and the file of settings.
//
//go:embed debian
var debian embed.FS

// conffiles are those that dpkg keeps when people have changed them.
const conffiles = "/etc/default/podwall\n"

// settings is where they are in the package.
const settings = "etc/default/podwall"

// units is where systemd's are.
const units = "usr/lib/systemd/system/"

// writePackages writes a Debian package for each architecture.
func (j *job) writePackages(stdout io.Writer) error {
	for _, arch := range j.architectures() {
		files, err := j.installed(arch)
		if err != nil {
			return err
		}
		pkg, err := j.pack(arch, files)
		if err != nil {
			return err
		}
		path := filepath.Join(j.out, fmt.Sprintf("podwall_%s_%s.deb", debianVersion(j.version), arch))
		if err := write(path, pkg); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s: %s\n", path, digest(pkg))
	}
	return nil
}

// installed are the files that a package puts on a node.
func (j *job) installed(arch string) ([]file, error) {
	files, err := j.common(arch, func(name string) string {
		switch name {
		case "podwall", "podwall-install": // which finds the plugin beside itself
			return "usr/lib/podwall/" + name
		}
		return "usr/bin/" + name
	})
	if err != nil {
		return nil, err
	}
	files = append(files, file{path: "usr/bin/podwall-install", mode: 0o777, target: "../lib/podwall/podwall-install"})
	for i := range files {
		if files[i].path == doc+"LICENSE" { // where Debian looks for it
			files[i].path = doc + "copyright"
		}
	}
	for _, name := range []string{"podwalld.service", "podwall-install.service"} {
		text, err := os.ReadFile(filepath.Join(j.units, name))
		if err != nil {
			return nil, fmt.Errorf("read unit: %w", err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin"), []byte("/usr/bin"))
		files = append(files, file{path: units + name, mode: 0o644, body: text})
	}
	text, err := debian.ReadFile("debian/podwall.default")
	return append(files, file{path: settings, mode: 0o644, body: text}, file{path: "opt/cni/bin/", mode: 0o755}), err
}

// pack returns the package that holds files.
func (j *job) pack(arch string, files []file) ([]byte, error) {
	control := []file{
		{path: "control", mode: 0o644, body: []byte(j.control(arch, files))},
		{path: "conffiles", mode: 0o644, body: []byte(conffiles)},
		{path: "md5sums", mode: 0o644, body: sums(files)},
	}
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		text, err := debian.ReadFile("debian/" + name)
		if err != nil {
			return nil, err
		}
		control = append(control, file{path: name, mode: 0o755, body: text})
	}
	about, _, err := archive(control, j.date)
	if err != nil {
		return nil, err
	}
	data, _, err := archive(files, j.date)
	if err != nil {
		return nil, err
	}
	return j.ar([]file{
		{path: "debian-binary", body: []byte("2.0\n")},
		{path: "control.tar.gz", body: about},
		{path: "data.tar.gz", body: data},
	}), nil
}

// control says what dpkg has to know.
func (j *job) control(arch string, files []file) string {
	size := 0
	for _, f := range files {
		size += (len(f.body) + 1023) / 1024
	}
	return fmt.Sprintf(`Package: podwall
Version: %s
Architecture: %s
Maintainer: The podwall authors <podwall@users.noreply.github.com>
Installed-Size: %d
Section: net
Priority: optional
Recommends: nftables
Homepage: https://github.com/podwall/podwall
Description: firewall for every pod
 podwall enforces Kubernetes NetworkPolicy with nftables inside each pod's own
 network namespace, on any CNI, before the pod's first process runs. This package
 is for nodes without Kubernetes: policy is read from manifests.
`, debianVersion(j.version), arch, size)
}

// sums lists the files that people are not meant to change.
func sums(files []file) []byte {
	var b bytes.Buffer
	for _, f := range files {
		if f.body != nil && f.path != settings {
			fmt.Fprintf(&b, "%x  %s\n", md5.Sum(f.body), f.path)
		}
	}
	return b.Bytes()
}

// ar returns an archive as dpkg wants it.
func (j *job) ar(files []file) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, f := range files {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", f.path, j.date.Unix(), 0, 0, "100644", len(f.body))
		b.Write(f.body)
		if len(f.body)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// released is a version that a tag gave, with the commits since then.
var released = regexp.MustCompile(`^v?(\d+\.\d+.*)$`)

// debianVersion is a version as dpkg orders it: what was built without a release
// before it is older than every release.
func debianVersion(version string) string {
	text := "0~" + version
	if m := released.FindStringSubmatch(version); m != nil {
		text = m[1]
	}
	return strings.Map(func(r rune) rune {
		if r == '-' { // would begin a revision
			return '+'
		}
		if strings.ContainsRune(".+~", r) || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') {
			return r
		}
		return '.'
	}, text)
}
