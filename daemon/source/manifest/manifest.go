// Package manifest reads policy from a directory of Kubernetes manifests.
//
//	*.yaml *.yml *.json ──▶ documents ──▶ objects ──▶ merge ──▶ World ──▶ Update
//	       │ broken                          ▲
//	       └──────▶ last good content ───────┘
//
// Files in the directory itself count, and symbolic links to files, as ConfigMap
// volumes are made of; hidden ones don't.
//
// # Contract
//
// A change in the directory is published within a fraction of a second.
// Deleting a file withdraws its objects; nothing else does. A file that can't
// be read as manifests keeps its last good content, also over a restart, and so
// does everything while the directory itself is away. A file that was never
// good counts as far as it can be read.
//
// A NetworkPolicy that can't be honoured isolates what it selects, or its whole
// namespace if even that can't be read. Of two objects with one name the first
// counts, in the order of file names; if they are NetworkPolicies, the other
// one isolates what it selects and admits nobody. A NetworkPolicy that is
// withdrawn while its Namespace is terminating stays until the Namespace is
// gone: its pods may still be running.
//
// Everything that was not honoured is a Problem that names the file or the
// object.
package manifest

import (
	"context"
	"reflect"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/policy"
)

// Files keeps the last good content of files by name, durably.
type Files interface {
	// Files returns all contents.
	Files() (map[string][]byte, error)
	// SaveFiles stores the contents in one transaction. A nil content deletes.
	SaveFiles(contents map[string][]byte) error
}

// A Source is a directory of manifests.
type Source struct {
	Dir   string
	Files Files // nil keeps nothing over a restart

	// Rescan is how often the directory is read without being told to, against
	// events that were lost; 0 is every ten seconds.
	Rescan time.Duration
}

// Describe returns "manifests" and the directory.
func (s *Source) Describe() (kind, location string) { return "manifests", s.Dir }

// Run is source.Source's. It does not fail: a directory that is not there is a
// Problem, and is waited for.
func (s *Source) Run(ctx context.Context, publish func(source.Update)) error {
	w := &watch{dir: s.Dir, rescan: s.Rescan}
	if w.rescan == 0 {
		w.rescan = 10 * time.Second
	}
	defer w.close()
	t := newTree(s.Dir, s.Files)
	var last *source.World
	for {
		w.renew() // before the files are read, so that no change falls between
		t.scan()
		world := t.world(w.problems())
		if last == nil || !reflect.DeepEqual(*last, world) {
			publish(update(last, world))
			last = &world
		}
		if !w.wait(ctx) {
			return nil
		}
	}
}

// update is the news in world for who knows last, if that is not nil.
func update(last *source.World, world source.World) source.Update {
	u := source.Update{Problems: world.Problems, Objects: world.Objects, Unknown: world.Unknown}
	if last == nil {
		u.Whole, u.Set = true, world.Snapshot
	} else {
		u.Change = policy.Difference(last.Snapshot, world.Snapshot)
	}
	return u
}

// Read returns what the directory dir holds now.
func Read(dir string) source.World {
	t := newTree(dir, nil)
	t.scan()
	return t.world(nil)
}
