package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// A descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// An index lists images: of several platforms, or of an archive.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// A manifest is one image of one platform.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// A config says what a runtime does with an image.
type config struct {
	Created string `json:"created"`
	platform
	Config struct {
		User       string            `json:"User"`
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Labels     map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// A layout is an archive in the making: blobs by their digest.
type layout map[string][]byte

// add stores a blob and returns what points to it.
func (l layout) add(mediaType string, body []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(body), Size: len(body)}
	l[d.Digest] = body
	return d
}

// addJSON stores a document.
func (l layout) addJSON(mediaType string, v any) (descriptor, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return l.add(mediaType, body), nil
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// writeImage writes the archive and prints the image's name and digest.
func (j *job) writeImage(stdout io.Writer) error {
	blobs := make(layout)
	list := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, arch := range j.architectures() {
		d, err := j.image(blobs, arch)
		if err != nil {
			return err
		}
		list.Manifests = append(list.Manifests, d)
	}
	image, err := blobs.addJSON(typeIndex, list)
	if err != nil {
		return err
	}
	digest := image.Digest
	// containerd and Docker take the name from the first, others from the second.
	image.Annotations = map[string]string{"io.containerd.image.name": j.name, "org.opencontainers.image.ref.name": j.name}
	body, err := blobs.tar(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{image}}, j.date)
	if err != nil {
		return err
	}
	if err := write(j.out, body); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s@%s\n", j.out, j.name, digest)
	return nil
}

// image adds the image of one architecture to blobs.
func (j *job) image(blobs layout, arch string) (descriptor, error) {
	files, err := j.common(arch, func(name string) string { return "usr/bin/" + name })
	if err != nil {
		return descriptor{}, err
	}
	// Runtimes name the pods' namespaces by this path.
	files = append(files, file{path: "var/run", mode: 0o777, target: "../run"}, file{path: "run/", mode: 0o755})
	compressed, plain, err := archive(files, j.date)
	if err != nil {
		return descriptor{}, err
	}
	conf, err := blobs.addJSON(typeConfig, j.config(arch, digest(plain)))
	if err != nil {
		return descriptor{}, err
	}
	d, err := blobs.addJSON(typeManifest, manifest{SchemaVersion: 2, MediaType: typeManifest, Config: conf,
		Layers: []descriptor{blobs.add(typeLayer, compressed)}})
	d.Platform = &platform{arch, "linux"}
	return d, err
}

// config is about the image whose only layer is the tar file with this digest.
func (j *job) config(arch, layer string) config {
	c := config{Created: j.date.Format(time.RFC3339), platform: platform{arch, "linux"}}
	c.Config.User = "0:0"
	c.Config.Env = []string{"PATH=/usr/bin"}
	c.Config.Entrypoint = []string{"/usr/bin/podwalld"}
	c.Config.Labels = map[string]string{
		"org.opencontainers.image.title":       "podwall",
		"org.opencontainers.image.description": "a firewall for every pod",
		"org.opencontainers.image.version":     j.version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://github.com/podwall/podwall",
	}
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{layer}
	return c
}

// tar returns the archive, with the blobs in the order of their digests.
func (l layout) tar(list index, date time.Time) ([]byte, error) {
	top, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	files := []file{
		{path: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{path: "index.json", body: top},
	}
	var digests []string
	for d := range l {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	for _, d := range digests {
		files = append(files, file{path: "blobs/" + strings.Replace(d, ":", "/", 1), body: l[d]})
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: 0o644, Size: int64(len(f.body)), ModTime: date, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
