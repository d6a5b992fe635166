package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// A meter runs plugins for libcni, and notes how long each one's ADD took and how
// much memory podwall used.
type meter struct {
	version.PluginDecoder
	noop string // the no-op plugin's path

	mu   sync.Mutex
	took map[string][]time.Duration // by plugin, in order
	rss  []float64                  // of podwall, at most, in MB
}

// ExecPlugin runs a plugin.
func (m *meter) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(stdin), &stdout, &stderr, env
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, &types.Error{Code: types.ErrInternal, Msg: path, Details: stdout.String() + stderr.String()}
	}
	if slices.Contains(env, "CNI_COMMAND=ADD") {
		m.note(filepath.Base(path), time.Since(start), cmd)
	}
	return stdout.Bytes(), nil
}

// FindInPath is libcni's own, and knows the no-op plugin.
func (m *meter) FindInPath(plugin string, paths []string) (string, error) {
	if plugin == "noop" {
		return m.noop, nil
	}
	return invoke.FindInPath(plugin, paths)
}

func (m *meter) note(name string, took time.Duration, cmd *exec.Cmd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took[name] = append(m.took[name], took)
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && name == "podwall" {
		m.rss = append(m.rss, float64(usage.Maxrss)*1024/1e6)
	}
}

// resident is how much memory podwall's latest ADD used at most, in MB.
func (m *meter) resident() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rss[len(m.rss)-1]
}

// last is how long the plugin's latest ADD took.
func (m *meter) last(name string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.took[name]
	return all[len(all)-1]
}
