package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/install/chain"
	"github.com/podwall/podwall/install/change"
	"github.com/podwall/podwall/install/confdir"
)

// others are the binaries that go to --bin-dir.
var others = []string{"podwalld", "policyctl", "podwall-install"}

// patience bounds the wait for another installer, and for plugins that are asked
// for their versions.
const patience = 30 * time.Second

// A node is where podwall goes, as the flags say.
type node struct {
	program
	source, cniBin, bin string
	cache, root         string
	dir                 confdir.Dir
	entry               netconf.Entry
	policy              string
	dryRun              bool
	binariesOnly        bool
	cluster             cluster
	contested           atomic.Bool         // somebody does not let podwall stay in the networks
	same                map[binary][2]stamp // binaries that were found equal to their source, and when
}

// prepare makes the flags what the directory of networks needs.
func (n *node) prepare(ctx context.Context) error {
	if err := errors.Join(n.checkCluster(), n.checkDropIn(ctx)); err != nil {
		return err
	}
	fields := []string{`"type": "podwall"`}
	def := netconf.Default()
	for _, f := range []struct{ name, value, def string }{
		{"socket", n.entry.Socket, def.Socket},
		{"failurePolicy", n.policy, def.FailurePolicy.String()},
		{"namespace", n.entry.Namespace, def.Namespace},
	} {
		if f.value != f.def {
			quoted, err := json.Marshal(f.value)
			if err != nil {
				return err
			}
			fields = append(fields, fmt.Sprintf("%q: %s", f.name, quoted))
		}
	}
	inside := strings.Join(fields, ", ")
	if _, err := netconf.Parse([]byte(`{"name": "any", ` + inside + `}`)); err != nil {
		return fmt.Errorf("podwall's entry: %w", err)
	}
	n.dir.Entry = []byte("{" + inside + "}")
	n.dir.Speak = func(plugins []string, version string) error { return n.speak(ctx, plugins, version) }
	return nil
}

// speak asks plugins, and the node's runtime, whether they speak a version of CNI.
func (n *node) speak(ctx context.Context, plugins []string, version string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cni := libcni.NewCNIConfig([]string{n.cniBin}, nil)
	errs := []error{n.runtimeSpeaks(ctx, version)}
	for _, p := range plugins {
		if p == chain.Plugin {
			continue
		}
		info, err := cni.GetVersionInfo(ctx, p)
		if err != nil {
			errs = append(errs, fmt.Errorf("ask plugin %s: %w", p, err))
		} else if v := info.SupportedVersions(); !slices.Contains(v, version) {
			errs = append(errs, fmt.Errorf("plugin %s speaks only %s", p, strings.Join(v, ", ")))
		}
	}
	return errors.Join(errs...)
}

// A binary is where one of the binaries goes.
type binary struct {
	Path  string `json:"file"`
	State string `json:"state"`
	from  string
}

// The states of a binary.
const (
	current   = "current"   // the same as in the source
	different = "different" // another version, or not executable
	missing   = "missing"
	present   = "present" // and the source has none to compare it with
	unknown   = "unknown" // it can't be read
)

// binaries returns where they go: the plugin, which comes first, and those that
// the source has of the others.
func (n *node) binaries() []binary {
	all := []binary{{Path: filepath.Join(n.cniBin, chain.Plugin), from: filepath.Join(n.source, chain.Plugin)}}
	for _, name := range others {
		from := filepath.Join(n.source, name)
		if _, err := os.Stat(from); n.bin != "" && err == nil {
			all = append(all, binary{Path: filepath.Join(n.bin, name), from: from})
		}
	}
	return all
}

// places are the paths of all binaries that install may have put in place.
func (n *node) places() []string {
	all := []string{filepath.Join(n.cniBin, chain.Plugin)}
	for _, name := range others {
		if n.bin != "" {
			all = append(all, filepath.Join(n.bin, name))
		}
	}
	return all
}

// copies returns the changes that put the binaries in place.
func (n *node) copies() ([]change.Change, error) {
	var out []change.Change
	for _, b := range n.binaries() {
		c, _, err := n.compare(b)
		if err != nil {
			return nil, err
		}
		if c != nil {
			out = append(out, *c)
		}
	}
	return out, nil
}

// compare returns the change that puts a binary in place, nil if it is there, and
// the state it is in.
func (n *node) compare(b binary) (*change.Change, string, error) {
	pair := [2]stamp{stampOf(b.from), stampOf(b.Path)}
	if n.same[b] == pair && pair[0].ino != 0 {
		return nil, current, nil
	}
	there, err := os.ReadFile(b.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, unknown, fmt.Errorf("read binary: %w", err)
	}
	want, wantErr := os.ReadFile(b.from)
	state := different
	switch {
	case err != nil:
		there, state = nil, missing
	case wantErr != nil && executable(b.Path):
		state = present
	}
	if wantErr != nil {
		return nil, state, fmt.Errorf("read binary to copy: %w (name the directory that holds it with --source)", wantErr)
	}
	if there != nil && bytes.Equal(want, there) && executable(b.Path) {
		n.same[b] = pair
		return nil, current, nil
	}
	return &change.Change{Path: b.Path, Before: there, After: want, Mode: 0o755}, state, nil
}

// A stamp tells whether a file may have changed. The kernel sets the time, and
// nobody else can.
type stamp struct {
	dev, ino uint64
	changed  unix.Timespec
}

// stampOf is zero for a file that is not there.
func stampOf(path string) stamp {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{st.Dev, st.Ino, st.Ctim}
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().Perm() == 0o755
}

// apply makes changes in the node's directories: in one go, as the only installer.
// A binary that can't be replaced while an older one is in place keeps nothing
// else from being done; one that is not there does.
func (n *node) apply(ctx context.Context, changes []change.Change) error {
	unlock, err := n.lock(ctx, changes)
	defer unlock()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range changes {
		err := c.Apply()
		errs = append(errs, err)
		if err != nil && (c.Mode == 0 || c.Before == nil) {
			break
		}
	}
	return errors.Join(errs...)
}

// lock locks the directories that are there and removes what a killed installer
// left in them. unlock is to be called in any case.
func (n *node) lock(ctx context.Context, changes []change.Change) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dirs := []string{n.cniBin, n.dir.Path}
	if n.bin != "" {
		dirs = append(dirs, n.bin)
	}
	for _, c := range changes {
		dirs = append(dirs, filepath.Dir(c.Path))
	}
	slices.Sort(dirs) // two installers that lock them in the same order never block each other
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, dir := range slices.Compact(dirs) {
		u, err := change.Lock(ctx, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // to make a file there will say so
		}
		if err != nil {
			return unlock, err
		}
		unlocks = append(unlocks, u)
		if err := change.Clean(dir); err != nil && !errors.Is(err, unix.EROFS) {
			return unlock, err
		}
	}
	return unlock, nil
}
