package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// controllers are where the cgroups of version 1 are mounted. A kubelet's cgroup
// root is a directory in each.
func controllers() ([]string, error) {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(dirs) == 0 {
		return nil, errors.New("find cgroups: none of version 1 below /sys/fs/cgroup")
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs, nil
}

// makeCgroup makes a cgroup in every controller.
func makeCgroup(name string) error {
	dirs, err := controllers()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		// A cpuset is of no use before it is told what is in it.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, name, file), value, 0o644)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup removes a cgroup and all below it, when no process is left there.
func removeCgroup(name string) error {
	dirs, err := controllers()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		var all []string
		_ = filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil // what is gone is fine
		})
		for _, path := range slices.Backward(all) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
