package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// names lists what is in a tar, with the links' ends.
func names(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name+h.Linkname] = b
	}
}

func TestWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	i := Image{Tags: []string{"localhost/x:1"}, Dirs: []string{"/tmp"}, Files: []File{
		{Path: "/etc/a/file", Text: "hello"}, {Path: "/bin/link", Link: "/etc/a/file"}, {Path: "/etc/other"},
	}}
	if err := i.Write(file); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := names(t, bytes.NewReader(first))
	layer := names(t, bytes.NewReader(parts["layer.tar"]))
	want := []string{"bin/", "bin/link/etc/a/file", "etc/", "etc/a/", "etc/a/file", "etc/other", "tmp/"}
	if got := slices.Sorted(maps.Keys(layer)); !slices.Equal(got, want) {
		t.Errorf("layer holds %q, want %q", got, want)
	}
	if string(layer["etc/a/file"]) != "hello" {
		t.Errorf("file says %q", layer["etc/a/file"])
	}
	if err := i.Write(file); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, first) {
		t.Errorf("written again, the archive is different (%v)", err)
	}
}

func TestWriteWithoutAFileLeavesTheOldArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := (Image{Tags: []string{"localhost/x:1"}}).Write(file); err != nil {
		t.Fatal(err)
	}
	if err := (Image{Files: []File{{Path: "/x", From: "/does/not/exist"}}}).Write(file); err == nil {
		t.Error("no error")
	}
	if b, err := os.ReadFile(file); err != nil || len(b) == 0 {
		t.Errorf("the old archive has %d bytes, %v", len(b), err)
	}
}
