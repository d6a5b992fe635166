// Package sandbox finds the pods that still need the plugin's binary, in libcni's
// cache.
//
// A runtime may do a DEL with the configuration of the ADD, which libcni keeps in
// /var/lib/cni/results. If that names podwall and there is no such binary, the DEL
// fails, and the pod can't be removed.
//
// # Contract
//
// Find only reads. What it can't judge counts as needing the binary: a network
// namespace whose directory is not visible here, an entry that names podwall and
// can't be read.
package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podwall/podwall/install/chain"
)

// A Sandbox is an attachment that podwall was in the chain of.
type Sandbox struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Network     string `json:"network"`
	Netns       string `json:"netns"`
	Pod         string `json:"pod,omitempty"` // namespace/name, or what the runtime named it
	// Doubt says why the sandbox counts although nobody knows that it exists.
	Doubt string `json:"doubt,omitempty"`
}

// String names the sandbox for people.
func (s Sandbox) String() string {
	name := s.Pod
	if name == "" {
		name = "container " + s.ContainerID
	}
	if s.Interface != "" {
		name += " (" + s.Interface + " on " + s.Network + ")"
	}
	if s.Doubt != "" {
		name += ": " + s.Doubt
	}
	return name
}

// entry is one file of the cache, of any version.
type entry struct {
	ContainerID string      `json:"containerId"`
	Config      []byte      `json:"config"`
	IfName      string      `json:"ifName"`
	Network     string      `json:"networkName"`
	Netns       string      `json:"netns"`
	Args        [][2]string `json:"cniArgs"`
	Result      struct {
		Interfaces []struct {
			Sandbox string `json:"sandbox"`
		} `json:"interfaces"`
	} `json:"result"`
}

// Find returns the sandboxes in the cache below dir that need the plugin. root is
// where the node's own file system is; "/" outside a container.
func Find(dir, root string) ([]Sandbox, error) {
	results := filepath.Join(dir, "results")
	files, err := os.ReadDir(results)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var all []Sandbox
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(results, f.Name()))
		if err != nil {
			continue // gone since, or a directory
		}
		if s, ok := needs(text, f.Name(), root); ok {
			all = append(all, s)
		}
	}
	return all, nil
}

// needs judges one entry.
func needs(text []byte, file, root string) (Sandbox, bool) {
	var e entry
	if err := json.Unmarshal(text, &e); err != nil {
		return Sandbox{ContainerID: file, Doubt: "its entry in libcni's cache can't be read"}, bytes.Contains(text, []byte(chain.Plugin))
	}
	s := Sandbox{ContainerID: e.ContainerID, Interface: e.IfName, Network: e.Network, Netns: e.Netns, Pod: pod(e.Args)}
	for _, i := range e.Result.Interfaces {
		if s.Netns == "" { // older versions of libcni cache it only there
			s.Netns = i.Sandbox
		}
	}
	var gone bool
	gone, s.Doubt = missing(s.Netns, root)
	return s, names(e.Config) && !gone
}

// names reports whether a network's configuration has podwall in it, be it in one
// that a meta plugin delegates to.
func names(config []byte) bool {
	l, err := chain.Parse(config)
	return bytes.Contains(config, []byte(`"`+chain.Plugin+`"`)) || (err == nil && l.Has())
}

// missing reports whether a namespace's path is gone, or why nobody can tell.
func missing(path, root string) (gone bool, doubt string) {
	if path == "" {
		return false, "libcni's cache does not say which network namespace it has"
	}
	_, err := os.Lstat(filepath.Join(root, path))
	switch {
	case err == nil:
		return false, ""
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Sprintf("network namespace: %v", err)
	case strings.HasPrefix(path, "/proc/"):
		return true, ""
	}
	if _, err := os.Stat(filepath.Join(root, filepath.Dir(path))); err != nil {
		return false, fmt.Sprintf("network namespace %s: its directory is not visible here; mount it, or say with --host-root where the node's files are", path)
	}
	return true, ""
}

// pod returns the name that Kubernetes or podman gave.
func pod(args [][2]string) string {
	var namespace, name string
	for _, a := range args {
		switch a[0] {
		case "K8S_POD_NAMESPACE":
			namespace = a[1]
		case "K8S_POD_NAME":
			name = a[1]
		}
	}
	if name == "" || namespace == "" { // podman gives a name alone
		return name
	}
	return namespace + "/" + name
}
