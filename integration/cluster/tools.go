package cluster

import (
	"errors"
	"os"
	"path/filepath"
)

// Tools is the directory of all that is built for clusters, and of what they
// leave behind: .cache/cluster in the repository.
//
//	bin          Kubernetes and etcd, the suites, init
//	containerd2  containerd 2
//	cni          the reference plugins
//	images       archives that a runtime imports
//	run          the disks of the clusters that run now
//	logs         what their programs printed
type Tools string

// FindTools finds the directory from anywhere inside the repository.
func FindTools() (Tools, error) {
	root, err := Repository()
	return toolsOf(root), err
}

func toolsOf(root string) Tools { return Tools(filepath.Join(root, ".cache", "cluster")) }

// Repository is the directory of the repository that the process runs in.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "integration", "cluster", "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find the repository: no integration/cluster here or above")
}

// Path is where a program is.
func (t Tools) Path(program string) string { return filepath.Join(t.bin(), program) }

// Plugins is the directory of the reference plugins.
func (t Tools) Plugins() string { return filepath.Join(string(t), "cni") }

// Images are the archives that every node's runtime imports.
func (t Tools) Images() ([]string, error) {
	return filepath.Glob(filepath.Join(string(t), "images", "*.tar"))
}

func (t Tools) bin() string { return filepath.Join(string(t), "bin") }
