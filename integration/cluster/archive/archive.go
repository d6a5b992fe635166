// Package archive writes container images as archives that a runtime imports.
//
//	i := archive.Image{Tags: []string{"localhost/probe:1"}, Entrypoint: []string{"/probe"}}
//	i.Files = append(i.Files, archive.File{Path: "/probe", From: "bin/probe"})
//	err := i.Write("probe.tar")
//
// # Contract
//
// An Image is one layer. Equal Images of equal files give equal archives.
package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
)

// A File is a file or a symbolic link in an image. The directories above it are
// made.
type File struct {
	Path string
	From string // a file here, which is executable; or
	Text string // what is in it; or
	Link string // where a link points
}

// An Image is what a container starts from.
type Image struct {
	Tags       []string // its names
	Entrypoint []string
	Args       []string // its arguments, where a pod gives none
	User       string
	Dirs       []string // empty ones; /tmp is everybody's
	Files      []File
}

// Write writes the archive. On error there is none, or the old one.
func (i Image) Write(file string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Tags, err)
	}
	config, err := i.config(layer)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": i.Tags, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for _, part := range []struct {
		name string
		data []byte
	}{{"config.json", config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := add(w, tar.Header{Name: part.name, Mode: 0o644}, part.data); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(file+".next", all.Bytes(), 0o644)); err != nil {
		return err
	}
	return os.Rename(file+".next", file)
}

func (i Image) config(layer []byte) ([]byte, error) {
	return json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": time.Unix(0, 0).UTC(),
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Cmd": i.Args, "User": i.User, "WorkingDir": "/",
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
		"history": []map[string]any{{"created": time.Unix(0, 0).UTC()}},
	})
}

// layer is the image's only one.
func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	for _, dir := range i.Dirs {
		if err := mkdir(w, made, inside(dir)); err != nil {
			return nil, err
		}
	}
	for _, f := range i.Files {
		if err := mkdir(w, made, path.Dir(inside(f.Path))); err != nil {
			return nil, err
		}
		if err := f.add(w); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

func (f File) add(w *tar.Writer) error {
	h := tar.Header{Name: inside(f.Path), Mode: 0o644}
	data := []byte(f.Text)
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
	case f.From != "":
		var err error
		if data, err = os.ReadFile(f.From); err != nil {
			return err
		}
		h.Mode = 0o755
	}
	return add(w, h, data)
}

// mkdir adds a directory and those above it, each once.
func mkdir(w *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := mkdir(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	h := tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}
	if dir == "tmp" {
		h.Mode = 0o1777
	}
	return add(w, h, nil)
}

func add(w *tar.Writer, h tar.Header, data []byte) error {
	h.Size, h.ModTime = int64(len(data)), time.Unix(0, 0)
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// inside is a path as archives write it.
func inside(p string) string { return strings.Trim(path.Clean(p), "/") }
