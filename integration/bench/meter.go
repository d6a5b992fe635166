package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// A meter runs plugins for libcni, and notes how long each one's ADD took and, while
// it watches, how much memory podwall used.
type meter struct {
	version.PluginDecoder
	noop string // the no-op plugin's path

	mu    sync.Mutex
	took  map[string][]time.Duration // by plugin, in order
	watch bool                       // podwall's memory, which costs it time
	rss   float64                    // of podwall's latest ADD that was watched, at most, in MB
}

// ExecPlugin runs a plugin.
func (m *meter) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(stdin), &stdout, &stderr, env
	start := time.Now()
	if err := m.run(cmd); err != nil {
		return nil, &types.Error{Code: types.ErrInternal, Msg: path, Details: stdout.String() + stderr.String()}
	}
	if slices.Contains(env, "CNI_COMMAND=ADD") {
		m.note(filepath.Base(path), time.Since(start))
	}
	return stdout.Bytes(), nil
}

// run is cmd.Run, under a watching eye where that is wanted. What wait(2) tells of a
// child's memory would hold this process', out of which it came.
func (m *meter) run(cmd *exec.Cmd) error {
	m.mu.Lock()
	watch := m.watch && filepath.Base(cmd.Path) == "podwall" && slices.Contains(cmd.Env, "CNI_COMMAND=ADD")
	m.mu.Unlock()
	if err := cmd.Start(); err != nil || !watch {
		return errors.Join(err, cmd.Wait())
	}
	ended, seen := make(chan struct{}), make(chan float64)
	go func() {
		most := 0.0
		for {
			select {
			case <-ended:
				seen <- most
				return
			default: // its memory goes with it: the last look before that counts
				if _, at, err := memoryOf(cmd.Process.Pid); err == nil {
					most = max(most, at)
				}
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	most := <-seen
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rss = most / 1e6
	return err
}

// FindInPath is libcni's own, and knows the no-op plugin.
func (m *meter) FindInPath(plugin string, paths []string) (string, error) {
	if plugin == "noop" {
		return m.noop, nil
	}
	return invoke.FindInPath(plugin, paths)
}

func (m *meter) note(name string, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took[name] = append(m.took[name], took)
}

// watching makes the next ADDs tell podwall's memory, or not.
func (m *meter) watching(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watch = on
}

// resident is how much memory podwall's latest watched ADD used at most, in MB.
func (m *meter) resident() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rss
}

// last is how long the plugin's latest ADD took.
func (m *meter) last(name string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.took[name]
	return all[len(all)-1]
}
