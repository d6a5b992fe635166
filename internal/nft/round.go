package nft

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Round is what calls of Apply for many attachments have in common, as after a
// change that concerns them all: 110 of them may be about one list of 100,000
// peers, and the same one that came. It remembers how lists and rule sets differ,
// and keeps them, so it should not be kept itself. The zero Round remembers nothing
// yet; any goroutine may use it, and whoever made it calls End. Nil remembers
// nothing, ever.
type Round struct {
	batches sync.Pool // of *batch, to be used again

	mu     sync.Mutex
	lists  map[lists]*difference
	single map[list]bool
	drafts map[shape]*draft
	moves  map[[2]*draft]*move
	home   home
	used   []int // sockets to close
}

// End lets go of what the Round keeps open. It blocks: after a transaction that
// removed something the kernel holds a closing socket for a grace period of 10 ms and
// more, long after the transaction is in force.
func (r *Round) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.home.leave()
	for _, fd := range r.used {
		_ = unix.Close(fd)
	}
	r.used = nil
}

// closeLater leaves a socket to End.
func (r *Round) closeLater(fd int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = append(r.used, fd)
}

// A shape is all that the rules on packets depend on, but for the epoch: rule sets
// that share their tiers, as those of pods under the same policies do, share it.
type shape struct {
	iface           string
	ingress, egress ruleset.Identity
	v4, v6          bool // it has an address of the family
	raw, audit      bool
	adopted         ruleset.Adoption
	log             ruleset.Logging
}

func shapeOf(rs *ruleset.RuleSet, iface string) shape {
	s := shape{iface: iface, ingress: rs.Ingress.Identity(), egress: rs.Egress.Identity(),
		raw: rs.RawSockets, audit: rs.Audit, adopted: rs.Adopted, log: rs.Log}
	for _, a := range rs.Addresses {
		s.v4, s.v6 = s.v4 || !a.Is6(), s.v6 || a.Is6()
	}
	return s
}

// A draft is what stands of a rule set in the table of its rules on packets, in no
// epoch.
type draft struct {
	rules ruleset.RuleSet
	lower sync.Once
	table ruleset.Table
	know  sync.Once
	held  held // in the words of knownOf
}

// draft returns the draft of rs, which is worked out once.
func (r *Round) draft(rs *ruleset.RuleSet, iface string) *draft {
	d := r.draftOf(rs, iface)
	d.lower.Do(func() { d.table = d.rules.LowerBy(iface, 0, r.hosts) })
	return d
}

func (r *Round) draftOf(rs *ruleset.RuleSet, iface string) *draft {
	if r == nil {
		return &draft{rules: *rs}
	}
	at := shapeOf(rs, iface)
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.drafts[at]
	if d == nil {
		d = &draft{rules: *rs}
		if r.drafts == nil {
			r.drafts = map[shape]*draft{}
		}
		r.drafts[at] = d
	}
	return d
}

// in is what is held of d in an epoch.
func (d *draft) in(e ruleset.Epoch) held {
	d.know.Do(func() { d.held = knownOf(d.table) })
	h := d.held
	h.epoch = e
	return h
}
