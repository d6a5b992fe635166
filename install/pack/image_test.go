package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const root = "../.."

// build makes directories of binaries that consist of an ELF header and a text.
func build(t *testing.T) (args []string) {
	t.Helper()
	dir := t.TempDir()
	for arch, machine := range machines {
		d := filepath.Join(dir, arch)
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range binaries {
			header := make([]byte, 64)
			copy(header, "\x7fELF\x02\x01\x01")
			binary.LittleEndian.PutUint16(header[16:], 2) // an executable
			binary.LittleEndian.PutUint16(header[18:], uint16(machine))
			binary.LittleEndian.PutUint32(header[20:], 1)
			binary.LittleEndian.PutUint16(header[52:], 64)
			text := append(header, name+" for "+arch...)
			if err := os.WriteFile(filepath.Join(d, name), text, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, arch+"="+d)
	}
	return args
}

// pack runs the command, and returns what it wrote to the file.
func pack(t *testing.T, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	args = append([]string{args[0], "-o", out, "-licence", root + "/LICENSE", "-notices", root + "/LICENSE"}, args[1:]...)
	if err := run(args, io.Discard); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An entry of a tar file is its header and, of a file, its content.
type entry struct {
	*tar.Header
	body string
}

func untar(t *testing.T, text []byte) map[string]entry {
	t.Helper()
	files := make(map[string]entry)
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if _, twice := files[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		files[name] = entry{h, string(body)}
	}
}

func unzip(t *testing.T, text string) []byte {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// blob follows a descriptor, and demands that it describes what is there.
func blob(t *testing.T, files map[string]entry, d descriptor) string {
	t.Helper()
	body := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)].body
	if d.Digest != digest([]byte(body)) || d.Size != len(body) {
		t.Fatalf("%s of %d bytes is said to be %+v", digest([]byte(body)), len(body), d)
	}
	return body
}

// parsed reads a document that has no fields but those known here.
func parsed[T any](t *testing.T, text string) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// An image holds the four binaries, the licences, the way to the namespaces, and
// nothing else: no shell, no file that anybody but root may write.
func TestImage(t *testing.T) {
	const name = "ghcr.io/podwall/podwall:v1"
	args := append([]string{"image", "-name", name, "-version", "v1.2.3", "-date", "1700000000"}, build(t)...)
	files := untar(t, pack(t, args...))
	if got := files["oci-layout"].body; got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout %q", got)
	}
	top := parsed[index](t, files["index.json"].body)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != name {
		t.Fatalf("index.json %+v", top)
	}
	var platforms []string
	for _, d := range parsed[index](t, blob(t, files, top.Manifests[0])).Manifests {
		platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Architecture)
		m := parsed[manifest](t, blob(t, files, d))
		c := parsed[config](t, blob(t, files, m.Config))
		if c.platform != *d.Platform || c.Config.Entrypoint[0] != "/usr/bin/podwalld" || c.Created != "2023-11-14T22:13:20Z" {
			t.Errorf("config %+v", c)
		}
		layer := unzip(t, blob(t, files, m.Layers[0]))
		if want := digest(layer); len(m.Layers) != 1 || !slices.Equal(c.RootFS.DiffIDs, []string{want}) {
			t.Errorf("%d layers, diff ids %v, want %s", len(m.Layers), c.RootFS.DiffIDs, want)
		}
		checkLayer(t, untar(t, layer), d.Platform.Architecture)
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", platforms)
	}
}

func checkLayer(t *testing.T, files map[string]entry, arch string) {
	t.Helper()
	want := map[string]string{
		"run/": "drwxr-xr-x", "usr/": "drwxr-xr-x", "usr/bin/": "drwxr-xr-x", "var/": "drwxr-xr-x", "var/run": "Lrwxrwxrwx",
		"usr/share/": "drwxr-xr-x", "usr/share/doc/": "drwxr-xr-x", doc: "drwxr-xr-x", doc + "LICENSE": "-rw-r--r--", doc + "NOTICES": "-rw-r--r--",
	}
	for _, name := range binaries {
		want["usr/bin/"+name] = "-rwxr-xr-x"
		if got := files["usr/bin/"+name].body; !strings.HasSuffix(got, name+" for "+arch) {
			t.Errorf("%s for %s is %q", name, arch, got)
		}
	}
	for path, f := range files {
		if f.FileInfo().Mode().String() != want[path] || f.Uid != 0 || f.Gid != 0 || !f.ModTime.Equal(time.Unix(1700000000, 0)) {
			t.Errorf("%s: %v of %d:%d, %v; want %q", path, f.FileInfo().Mode(), f.Uid, f.Gid, f.ModTime, want[path])
		}
		delete(want, path)
	}
	for path := range want {
		t.Errorf("no %s", path)
	}
	if files["var/run"].Linkname != "../run" {
		t.Errorf("var/run leads to %s", files["var/run"].Linkname)
	}
}

// Neither the order of the arguments nor where the binaries are, what mode they
// have and how old they are gets into the image. What is in them does.
func TestImageIsReproducible(t *testing.T) {
	first, second := build(t), build(t)
	slices.Sort(first)
	slices.Sort(second)
	slices.Reverse(second)
	for _, arg := range second {
		_, dir, _ := strings.Cut(arg, "=")
		for _, name := range binaries {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.Chmod(path, 0o644), os.Chtimes(path, time.Unix(1, 0), time.Unix(2, 0))); err != nil {
				t.Fatal(err)
			}
		}
	}
	make := func(args []string) []byte {
		return pack(t, append([]string{"image", "-name", "podwall:v1"}, args...)...)
	}
	one, two := make(first), make(second)
	if !bytes.Equal(one, two) {
		t.Errorf("%s and %s from the same input", digest(one), digest(two))
	}
	_, dir, _ := strings.Cut(first[0], "=")
	f, err := os.OpenFile(filepath.Join(dir, "podwalld"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(".")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one, make(first)) {
		t.Error("the same image from another podwalld")
	}
}

// What can't be packed is said, and an older result stays.
func TestRefused(t *testing.T) {
	builds := build(t)
	slices.Sort(builds)
	amd64, arm64 := builds[0], builds[1]
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"nothing to do", nil, "want image or debian"},
		{"unknown architecture", []string{"image", "-name", "p:v1", "mips=x"}, "mips"},
		{"no binaries", []string{"image", "-name", "p:v1"}, "no binaries"},
		{"no tag", []string{"image", "-name", "ghcr.io:443/podwall", amd64}, "-name"},
		{"binaries of another architecture", []string{"image", "-name", "p:v1", "amd64" + strings.TrimPrefix(arm64, "arm64")}, "EM_AARCH64, want amd64"},
		{"binaries that are not there", []string{"image", "-name", "p:v1", "amd64=/nowhere"}, "/nowhere"},
		{"no notices", []string{"image", "-name", "p:v1", "-notices", "/nowhere", amd64}, "read licences"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(out, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			args := tt.args
			if len(args) > 0 {
				args = append([]string{args[0], "-o", out, "-licence", root + "/LICENSE", "-notices", root + "/LICENSE"}, args[1:]...)
			}
			err := run(args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if got, _ := os.ReadFile(out); string(got) != "old" {
				t.Errorf("%d bytes in the old result's place", len(got))
			}
		})
	}
}

// The name and digest are printed: they are what others refer to.
func TestPrintsDigest(t *testing.T) {
	var stdout bytes.Buffer
	out := filepath.Join(t.TempDir(), "out.tar")
	args := append([]string{"image", "-o", out, "-name", "podwall:v1", "-licence", root + "/LICENSE", "-notices", root + "/LICENSE"}, build(t)...)
	if err := run(args, &stdout); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	top := parsed[index](t, untar(t, b)["index.json"].body)
	if want := fmt.Sprintf("%s: podwall:v1@%s\n", out, top.Manifests[0].Digest); stdout.String() != want {
		t.Errorf("printed %q, want %q", &stdout, want)
	}
}
