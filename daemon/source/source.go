// Package source is where policy comes from: a stream of Updates.
//
// # Contract
//
// A source counts differences: the consumer takes every Update, in order, and
// knows after each what the source knows. What could not be honoured is in the
// Update too, as Problems: bad input is news, not a reason to stop.
package source

import (
	"context"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// A Source publishes Updates.
type Source interface {
	// Run calls publish with a first Update, which is Whole, as soon as the source
	// has one, even if that is empty, and then with each that says something new,
	// until ctx ends. It returns nil then. Calls of publish never overlap, and Run
	// waits for them.
	Run(ctx context.Context, publish func(Update)) error

	// Describe says what kind of source this is and where it reads, as
	// api.SourceStatus wants it.
	Describe() (kind, location string)
}

// An Update is what a source knows now and did not before. None may be skipped.
// It does not change once it is published, and neither does what it refers to.
type Update struct {
	// Whole says that Set is everything there is, or its first part: what it does
	// not hold is gone.
	Whole bool
	policy.Change
	Problems []api.Problem  // all there are at this moment
	Objects  map[string]int // how many objects of each kind count
	// Unknown says why not enough is known to go by, if that is so: the source
	// can't be read and there is nothing from before, or more of it is to come. A
	// pod that is set up by that would be open to all that a policy may forbid.
	Unknown string
}

// A World is everything a source knows at one moment, as one Update would say it.
type World struct {
	policy.Snapshot
	Problems []api.Problem
	Objects  map[string]int
	Unknown  string
}
