package reconcile

import (
	"time"

	"github.com/podwall/podwall/daemon/tamper"
)

// An Observer is told what the Keeper does, by whoever does it, and some of it
// while the Keeper's mutex is held: its methods must be quick and must not call
// the Keeper.
type Observer interface {
	// Attempted says that a namespace was to be given its rules.
	Attempted(Attempt)
	// Reached says that a round has ended, and how long ago the oldest change
	// that it took to the kernel was made.
	Reached(behind time.Duration)
	// Heard says that something happened in an attachment's namespace that the
	// Keeper knows nothing of yet. That may turn out to be its own doing.
	Heard(tamper.Event)
}

// An Attempt is what came of making one attachment's rules stand.
type Attempt struct {
	Took    time.Duration // in the kernel, with what was read there
	Wrote   bool          // there was a transaction; else the rules stood already
	Again   bool          // the attempt before had failed
	Foreign bool          // somebody else had changed the rules
	Err     error         // nil if the rules stand
}

// Phases of Adding.Finish.
const (
	PhaseOthers  = "others"  // every other local pod's rules come to know the attachment
	PhaseUpdate  = "update"  // its own rules are brought up to date
	PhasePersist = "persist" // it is made durable
)

// ended says that a phase has ended, if somebody wants to know.
func (ad *Adding) ended(phase string) {
	if ad.Ended != nil {
		ad.Ended(phase)
	}
}

// deaf is the Observer of a Keeper that has none.
type deaf struct{}

func (deaf) Attempted(Attempt)     {}
func (deaf) Reached(time.Duration) {}
func (deaf) Heard(tamper.Event)    {}

// Behind is the age of the oldest change that has not reached the kernel yet, 0
// if there is none.
func (k *Keeper) Behind() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return since(older(k.taken, k.dirty))
}

// dirtied notes that there is a change for a round to take. k.mu is held.
func (k *Keeper) dirtied() {
	if k.dirty.IsZero() {
		k.dirty = time.Now()
	}
}

// take makes the round that begins answer for the changes so far. k.mu is held.
func (k *Keeper) take() { k.taken, k.dirty = older(k.taken, k.dirty), time.Time{} }

// reached says that they are in the kernel. k.mu is held.
func (k *Keeper) reached() {
	if !k.taken.IsZero() {
		k.Observer.Reached(since(k.taken))
		k.taken = time.Time{}
	}
}

// older is the earlier of two moments, of which the zero Time is none.
func older(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// since is the age of t; of no moment it is 0.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t))
}
