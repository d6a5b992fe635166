package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// sweep removes the files and cgroups of clusters whose driver was killed. Their
// processes have ended with it.
func (t Tools) sweep() error {
	dirs, err := os.ReadDir(filepath.Join(string(t), "run"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, d := range dirs {
		_, number, _ := strings.Cut(d.Name(), "-")
		pid, err := strconv.Atoi(number)
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		nodes, err := os.ReadDir(filepath.Join(string(t), "run", d.Name()))
		for _, n := range nodes {
			errs = append(errs, removeCgroup("podwall-"+d.Name()+"-"+n.Name()))
		}
		errs = append(errs, err, os.RemoveAll(filepath.Join(string(t), "run", d.Name())))
	}
	return errors.Join(errs...)
}
