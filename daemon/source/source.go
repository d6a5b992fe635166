// Package source is where policy comes from: a stream of whole Worlds.
//
// # Contract
//
// A source publishes all it knows each time, never a difference, so that the
// consumer may skip any World but the last. What could not be honoured is in
// the World too, as Problems: bad input is news, not a reason to stop.
package source

import (
	"context"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// A World is everything a source knows at one moment. It does not change once
// it is published, and neither does what it refers to.
type World struct {
	policy.Snapshot
	Problems []api.Problem
	Objects  map[string]int // how many objects of each kind count
	// Unknown says why nothing is known, if that is so: the source can't be read
	// and there is nothing from before. Such a World is empty, and a pod that is
	// set up by it would be open to all that a policy may forbid.
	Unknown string
}

// A Source publishes Worlds.
type Source interface {
	// Run calls publish with a first World as soon as the source has one, even
	// if that World is empty, and then with each that differs from the one
	// before, until ctx ends. It returns nil then. Calls of publish never
	// overlap, and Run waits for them.
	Run(ctx context.Context, publish func(World)) error

	// Describe says what kind of source this is and where it reads, as
	// api.SourceStatus wants it.
	Describe() (kind, location string)
}

// An Update is news from a source that counts differences. Unlike a World, none
// may be skipped.
type Update struct {
	// Whole says that Set is everything there is: what it does not hold is gone.
	Whole bool
	policy.Change
	Problems []api.Problem  // all there are at this moment
	Objects  map[string]int // how many objects of each kind count
	Unknown  string         // as in World
}
