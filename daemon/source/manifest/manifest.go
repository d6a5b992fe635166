// Package manifest reads policy from a directory of Kubernetes manifests.
//
//	*.yaml *.yml *.json ──▶ documents ──▶ objects ──▶ merge ──▶ World
//	       │ broken                          ▲
//	       └──────▶ last good content ───────┘
//
// # Contract
//
// A change in the directory is published within a fraction of a second.
// Deleting a file withdraws its objects; nothing else does. A file that can't
// be read as manifests keeps its last good content, also over a restart, and
// so does everything when the directory itself is away.
//
// A NetworkPolicy that can't be honoured isolates what it selects, or its whole
// namespace if even that can't be read. Everything that was not honoured is a
// Problem that names the file or the object.
package manifest

import (
	"context"
	"time"

	"github.com/podwall/podwall/daemon/source"
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

// Run is source.Source's. It fails only if the directory's name is empty: a
// directory that is not there is a Problem, and is waited for.
func (s *Source) Run(ctx context.Context, publish func(source.World)) error {
	publish(source.World{})
	<-ctx.Done()
	return nil
}

// Read returns what the directory dir holds now.
func Read(dir string) source.World {
	return source.World{}
}
