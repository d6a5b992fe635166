// Command pack puts the built binaries into what nodes install podwall from.
//
//	pack image  -o FILE -name NAME … amd64=DIR arm64=DIR   an OCI archive with an index of both
//	pack debian -o DIR … amd64=DIR arm64=DIR               one Debian package for each
//
// It needs no Docker, no registry and no dpkg: an image is three JSON documents and
// a compressed tar file, a package an ar file with two of these.
//
// # Contract
//
// Equal input gives equal bytes: every file in a result belongs to root and bears
// the time that -date says, and nothing of this machine gets in. A file that is
// not there, or a binary that is of another architecture than its folder says, is
// an error, and then what was there before stays.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// A job is what the command line says.
type job struct {
	kind    string
	out     string            // the file, or the directory, to write
	name    string            // of an image
	version string            // of the binaries
	date    time.Time         // of everything in the result
	licence string            // the file with podwall's own
	notices string            // the file with those of the modules in it
	units   string            // the directory of systemd's units
	builds  map[string]string // the directory of the binaries by architecture
}

// run packs, and prints what it made.
func run(args []string, stdout io.Writer) error {
	j, err := parse(args)
	if err != nil {
		return err
	}
	if j.kind == "image" {
		return j.writeImage(stdout)
	}
	return j.writePackages(stdout)
}

// parse reads the command line.
func parse(args []string) (*job, error) {
	if len(args) == 0 || (args[0] != "image" && args[0] != "debian") {
		return nil, errors.New("what to pack: want image or debian")
	}
	j := &job{kind: args[0], builds: make(map[string]string)}
	fs := flag.NewFlagSet("pack "+j.kind, flag.ContinueOnError)
	fs.StringVar(&j.out, "o", "", "the file (image) or directory (debian) to write")
	fs.StringVar(&j.name, "name", "", "what the image is called: REGISTRY/REPOSITORY:TAG")
	fs.StringVar(&j.version, "version", "dev", "version of the binaries")
	date := fs.Int64("date", 0, "seconds since 1970 that all files bear")
	fs.StringVar(&j.licence, "licence", "LICENSE", "podwall's own licence")
	fs.StringVar(&j.units, "units", "install/systemd", "the directory of systemd's units")
	fs.StringVar(&j.notices, "notices", "", "the licences of the modules that are in the binaries")
	if err := fs.Parse(args[1:]); err != nil {
		return nil, err
	}
	j.date = time.Unix(*date, 0).UTC()
	for _, arg := range fs.Args() {
		arch, dir, ok := strings.Cut(arg, "=")
		if _, known := machines[arch]; !known || !ok {
			return nil, fmt.Errorf("argument %q: want amd64=DIR or arm64=DIR", arg)
		}
		j.builds[arch] = dir
	}
	switch {
	case len(j.builds) == 0:
		return nil, errors.New("no binaries: name them as amd64=DIR or arm64=DIR")
	case j.out == "":
		return nil, errors.New("flag -o: missing")
	case j.kind == "image" && !strings.Contains(filepath.Base(j.name), ":"):
		return nil, fmt.Errorf("flag -name %q: want REGISTRY/REPOSITORY:TAG", j.name)
	}
	return j, nil
}

// architectures are those to pack, in their order.
func (j *job) architectures() []string {
	var all []string
	for arch := range j.builds {
		all = append(all, arch)
	}
	slices.Sort(all)
	return all
}

// write puts content where path says, whole or not at all.
func write(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return nil
}
