package events

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// The kernel limits what podwall's rules log. But a process with CAP_NET_ADMIN in
// the pod can log what it likes to the same group, as fast as it can.
const (
	// kinds bounds how many limits an attachment's rules have at a time, and how
	// many of them may begin anew within one burst, as when rates change.
	kinds = 6
	// unbearable is how much beyond all limits is read before the socket is closed.
	unbearable = 10_000
)

// errFlood is why a socket is closed until the attachment is looked at again.
var errFlood = errors.New("a process in the pod's network namespace logs more to podwall's group than its rules can")

// A flood measures what a namespace logs. The zero flood has seen nothing.
type flood struct {
	spare  float64 // packets that may come at once
	at     time.Time
	excess int // packets that rules could not have logged
}

// bears counts one more packet, and reports whether the rules of the targets can
// have logged it.
func (f *flood) bears(now time.Time, targets map[string]*target) bool {
	var rate, burst float64
	for _, t := range targets {
		rate += kinds * max(float64(t.rules.Log.Rate), 1)
		burst += kinds * max(float64(t.rules.Log.Burst), 1)
	}
	if f.at.IsZero() {
		f.spare = burst
	} else {
		f.spare = min(burst, f.spare+rate*max(now.Sub(f.at).Seconds(), 0))
	}
	f.at = now
	if f.spare < 1 {
		f.excess++
		return false
	}
	f.spare--
	return true
}

// giveUp closes a namespace's socket. The next call of Listen opens it again.
// h.sockets is held.
func (h *Hub) giveUp(ns *namespace) {
	for _, t := range ns.targets {
		h.complain(t.attachment, errFlood)
	}
	for _, key := range slices.Collect(maps.Values(ns.attached)) {
		h.leave(key)
	}
}
