package server

import (
	"time"

	"github.com/podwall/podwall/internal/api"
)

// An Observer is told what the server does, while a client waits.
type Observer interface {
	// Phase says that a part of an ADD has ended: one of the phases here, or of
	// reconcile.
	Phase(phase string, took time.Duration)
	// Answered says what came of a request of any verb, known or not.
	Answered(verb api.Verb, took time.Duration, err error)
}

// Phases of an ADD, before those of reconcile.
const (
	PhaseDecode = "decode" // the request is read, and found to be one
	PhaseLearn  = "learn"  // its pod's labels are known
	PhaseBegin  = "begin"  // its rules are compiled
	PhaseApply  = "apply"  // the plugin gets them, installs them and says so
)

// Laps are the phases of one ADD.
type laps struct {
	observer Observer // may be nil
	began    time.Time
}

// end says that the present phase ends, which was this one. The next begins.
func (l *laps) end(phase string) {
	now := time.Now()
	if l.observer != nil {
		l.observer.Phase(phase, now.Sub(l.began))
	}
	l.began = now
}

// answered tells the Observer, if there is one.
func (s *Server) answered(verb api.Verb, start time.Time, err error) {
	if s.Observer != nil {
		s.Observer.Answered(verb, time.Since(start), err)
	}
}
