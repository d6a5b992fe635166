package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// reference is the module with the reference plugins; go.mod names its version.
const reference = "github.com/containernetworking/plugins"

// referencePlugins are those that chains may name, by their place in the module.
var referencePlugins = [...]string{"plugins/main/bridge", "plugins/ipam/host-local", "plugins/meta/tuning", "plugins/meta/firewall",
	"plugins/meta/portmap"}

// root returns the top of this module, which holds bin/ and .cache/.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find podwall's sources: no go.mod here or above")
		}
	}
}

// binaries returns the directory that make build fills.
func binaries() (string, error) {
	dir, err := root()
	return filepath.Join(dir, "bin"), err
}

// pluginDir is where buildPlugins leaves the reference plugins of one version.
func pluginDir(root, version string) string {
	return filepath.Join(root, ".cache", "cni-"+version)
}

// cachedPlugins returns the directory that buildPlugins filled.
func cachedPlugins() (string, error) {
	dir, err := root()
	if err != nil {
		return "", err
	}
	version, err := referenceVersion(dir)
	if err != nil {
		return "", err
	}
	return pluginDir(dir, version), nil
}

// referenceVersion reads the reference plugins' version from go.mod.
func referenceVersion(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(f) >= 2 && f[0] == reference {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("read go.mod: no %s", reference)
}

// buildPlugins builds the reference plugins that are not in .cache/ yet. It must
// run outside of the private machine, from where no module can be fetched. Two
// processes may do so at once.
func buildPlugins() error {
	root, err := root()
	if err != nil {
		return err
	}
	version, err := referenceVersion(root)
	if err != nil {
		return err
	}
	dir := pluginDir(root, version)
	var missing []string
	for _, p := range referencePlugins {
		if _, err := os.Stat(filepath.Join(dir, filepath.Base(p))); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, reference+"/"+p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return buildInto(root, dir, missing)
}

// buildInto builds packages and moves the results to dir, each whole or not.
func buildInto(root, dir string, packages []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", tmp + "/"}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build reference plugins: %w: %s", err, out)
	}
	for _, p := range packages {
		name := filepath.Base(p)
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
