// Command sbom writes the bill of materials of built binaries: which modules the
// linker put into each, with their checksums and licences, as CycloneDX 1.6.
//
//	sbom -version v1.2.3 bin/podwall bin/podwalld >bin/sbom.cdx.json
//
// With -notices it writes the licences of the same modules instead, in full.
//
// What is in a binary is asked of the binary itself (as go version -m does), not
// of go.mod, which also names what only tests need.
//
// # Contract
//
// Equal binaries give equal bytes: there is no date in it, and its serial number
// is a hash of the rest. A binary that is not Go's, a module that is not in the
// module cache, or a licence that is not known is an error, and nothing is
// written.
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	version := flag.String("version", "dev", "version of the binaries")
	notices := flag.Bool("notices", false, "write the modules' licences instead")
	flag.Parse()
	do := func() error { return run(os.Stdout, *version, flag.Args()) }
	if *notices {
		do = func() error { return runNotices(os.Stdout, flag.Args()) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// run writes the bill of the binaries at paths.
func run(w io.Writer, version string, paths []string) error {
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		return err
	}
	b, err := newBill(cache, version, paths)
	if err != nil {
		return err
	}
	return b.write(w)
}

// runNotices writes the licences of what is in the binaries at paths.
func runNotices(w io.Writer, paths []string) error {
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		return err
	}
	root, err := goEnv("GOROOT")
	if err != nil {
		return err
	}
	return writeNotices(w, root, cache, paths)
}

// goEnv is a setting of the go command: where it keeps modules, say.
func goEnv(name string) (string, error) {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// A module is one that is linked into a binary.
type module struct{ path, version, sum string }

// A binary is what it says about itself.
type binary struct {
	name, path string
	goVersion  string
	main       string // path of the main module
	modules    []module
}

// readBinary reads what the linker wrote into a binary.
func readBinary(path string) (binary, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return binary{}, fmt.Errorf("read build information of %s: %w", path, err)
	}
	b := binary{name: filepath.Base(path), path: path, goVersion: info.GoVersion, main: info.Main.Path}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		b.modules = append(b.modules, module{d.Path, d.Version, d.Sum})
	}
	slices.SortFunc(b.modules, func(a, b module) int { return strings.Compare(a.purl(), b.purl()) })
	return b, nil
}

// purl is the module's package URL, which is also its name inside the bill.
func (m module) purl() string { return "pkg:golang/" + m.path + "@" + m.version }

// dir is where the module cache keeps m: capitals are written !small.
func (m module) dir(cache string) string {
	var s strings.Builder
	for _, r := range m.path + "@" + m.version {
		if 'A' <= r && r <= 'Z' {
			s.WriteByte('!')
			r += 'a' - 'A'
		}
		s.WriteRune(r)
	}
	return filepath.Join(cache, filepath.FromSlash(s.String()))
}
