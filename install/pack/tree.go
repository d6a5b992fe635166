package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// binaries are all that podwall consists of.
var binaries = []string{"podwall", "podwalld", "policyctl", "podwall-install"}

// machines are the architectures, as Go and as the binaries themselves call them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// doc is where licences are, in the image as in the package.
const doc = "usr/share/doc/podwall/"

// A file is one in a tar file. It is a link if there is a target.
type file struct {
	path   string // without a slash in front
	mode   int64
	body   []byte
	target string
}

// common reads what every result holds: the binaries, where place says, and the
// licences.
func (j *job) common(arch string, place func(name string) string) ([]file, error) {
	var files []file
	for _, name := range binaries {
		body, err := readBinary(filepath.Join(j.builds[arch], name), arch)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: place(name), mode: 0o755, body: body})
	}
	for _, text := range []struct{ name, from string }{{"LICENSE", j.licence}, {"NOTICES", j.notices}} {
		body, err := os.ReadFile(text.from)
		if err != nil {
			return nil, fmt.Errorf("read licences: %w", err)
		}
		files = append(files, file{path: doc + text.name, mode: 0o644, body: body})
	}
	return files, nil
}

// readBinary reads an executable of an architecture.
func readBinary(path, arch string) ([]byte, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read binary: %w", err)
	}
	e, err := elf.NewFile(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read binary %s: %w", path, err)
	}
	if e.Machine != machines[arch] {
		return nil, fmt.Errorf("read binary %s: it is for %v, want %s", path, e.Machine, arch)
	}
	return body, nil
}

// archive returns a compressed tar file of files and of the directories that they
// are in, in the order of their paths.
func archive(files []file, date time.Time) (compressed, plain []byte, err error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range withDirs(files) {
		h := &tar.Header{Name: "./" + f.path, Mode: f.mode, Size: int64(len(f.body)), ModTime: date, Uname: "root", Gname: "root", Format: tar.FormatUSTAR}
		switch {
		case f.target != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.target
		case strings.HasSuffix(f.path, "/"):
			h.Typeflag = tar.TypeDir
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	compressed, err = zip(b.Bytes())
	return compressed, b.Bytes(), err
}

// zip compresses; its header says nothing of when and where.
func zip(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// withDirs returns files and the directories above them, in the order of their
// paths. The path of a directory ends in a slash.
func withDirs(files []file) []file {
	all := slices.Clone(files)
	seen := make(map[string]bool)
	for _, f := range files {
		for dir := path.Dir(strings.TrimSuffix(f.path, "/")); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			all = append(all, file{path: dir + "/", mode: 0o755})
		}
	}
	slices.SortFunc(all, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return all
}
