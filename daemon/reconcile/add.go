package reconcile

import (
	"context"
	"errors"
	"os"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// errDeleted is what an ADD gets whose attachment was deleted, or added anew,
// before its end.
var errDeleted = errors.New("it was deleted meanwhile")

// An Adding is an attachment in the middle of ADD. It ends with Finish or Abort.
type Adding struct {
	Rules ruleset.RuleSet // for the plugin to install
	// Ended, if it is set, is told of each phase of Finish when that ends.
	Ended func(phase string)

	k       *Keeper
	a       *attachment
	netns   *os.File   // nil once the attachment has it
	version uint64     // the first that has the attachment
	durable chan error // gets one value when the store has the attachment, or can't
}

// Begin starts the ADD of req, whose namespace is netns, and returns the rule
// set to install. From here on the attachment's addresses are in other pods'
// rules. Begin takes over netns, and closes it on error. An earlier attachment
// of the same key is replaced: nothing is written for it any more.
//
// The attachment is made durable while the plugin installs the rules. A daemon
// that ends in between finds it again, and gives the namespace its rules, until
// the runtime deletes what it could not add.
func (k *Keeper) Begin(req api.Attachment, netns *os.File) (*Adding, error) {
	netns = outOfTheWay(netns)
	ad, err := k.begin(req, netns)
	if err != nil {
		_ = netns.Close()
		return nil, err
	}
	return ad, nil
}

func (k *Keeper) begin(req api.Attachment, netns *os.File) (*Adding, error) {
	if err := nft.CheckNetns(netns); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "attachment %s: network namespace: %v", req.Key, err)
	}
	id, err := NetnsIDOf(netns)
	if err != nil {
		return nil, err
	}
	// The bridge plugin may have made the gateway's address a moment ago.
	if err := k.Refresh(); err != nil {
		return nil, err
	}
	a := &attachment{record: store.Record{Attachment: req, NetnsID: id, AddedAt: stamp()}, adding: true}
	if err := k.vacate(a.record); err != nil {
		return nil, err
	}
	a.status = pending(a.record, "being added")
	ad := &Adding{k: k, a: a, netns: netns}
	old, owner, err := k.admit(ad)
	if old != nil {
		old.settle()
	}
	if err == nil {
		err = k.refuse(a)
	}
	k.finish(a.record.NetnsID, owner) // the plugin writes there now
	if err != nil {
		return nil, err
	}
	ad.durable = make(chan error, 1)
	go func() { ad.durable <- k.persist(req.Key) }()
	return ad, nil
}

// admit makes ad's attachment one of the Keeper's and compiles its rules. It
// returns the one that it replaces and the owner of its tables, if any.
func (k *Keeper) admit(ad *Adding) (old *attachment, owner *leaving, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.notSynced(); err != nil {
		return nil, nil, err
	}
	key := ad.a.record.Key
	if old = k.attachments[key]; old != nil {
		old.forget()
		ad.a.stored = old.stored
	}
	k.attach(ad.a)
	k.changed()
	ad.Rules, ad.version = k.compile(ad.a), k.version
	return old, k.disown(ad.a.record.NetnsID), nil
}

// vacate forgets an attachment that has r's interface under another container's
// name. An interface has one container: the runtime has lost the old one, and two
// attachments would write their rules over each other's for ever.
func (k *Keeper) vacate(r store.Record) error {
	k.mu.Lock()
	other := k.occupant(r)
	k.mu.Unlock()
	if other == nil {
		return nil
	}
	k.Log.Warn("forget an attachment whose interface is another container's now", "attachment", other.record.Key.String(), "by", r.Key.String())
	return k.drop(other)
}

// forgetGone forgets an attachment that has r's interface by its number, and whose
// namespace is gone.
func (k *Keeper) forgetGone(r store.Record) {
	k.mu.Lock()
	other := k.occupant(r)
	here := other == nil || other.adding // what is being added has been seen
	k.mu.Unlock()
	if here {
		return
	}
	netns, err := k.open(other)
	switch {
	case err == nil:
		_ = netns.Close()
	case errors.Is(err, errOtherNetns):
		k.vanished(other)
	}
}

// occupant returns the attachment of another container that has r's interface, if
// there is one. k.mu is held.
func (k *Keeper) occupant(r store.Record) *attachment {
	for _, a := range k.attachments {
		if a.record.NetnsID == r.NetnsID && a.record.Interface == r.Interface && a.record.Key != r.Key {
			return a
		}
	}
	return nil
}

// Finish ends an ADD whose plugin has installed the rules: it waits until every
// other pod's rules know the attachment, brings its own up to date, and waits until
// it is durable. What the plugin said of the kernel's rules is stored right after:
// not having it costs a look at the kernel after the next start.
// On error the ADD has failed and is as if aborted.
func (ad *Adding) Finish(ctx context.Context, done api.Applied) error {
	if err := ad.finish(ctx, done); err != nil {
		ad.Abort()
		return api.Errorf(api.CodeUnavailable, "add %s: %v", ad.a.record.Key, err)
	}
	return nil
}

func (ad *Adding) finish(ctx context.Context, done api.Applied) error {
	k, a := ad.k, ad.a
	k.mu.Lock()
	a.record.AppliedAt, a.record.Took = stamp(), done.Took
	k.enforced(a, nft.Known{Rules: ad.Rules, Epoch: done.Epoch, Generation: done.Generation, Others: done.Others}, ad.version)
	k.mu.Unlock()
	if err := k.waitFor(ctx, ad.version); err != nil {
		return err
	}
	ad.ended(PhaseOthers)
	j := ad.rest()
	if err := k.write(j, int(ad.netns.Fd())); err != nil {
		return err
	}
	if err := ad.handOver(j.version); err != nil {
		return err
	}
	ad.ended(PhaseUpdate)
	if err := <-ad.durable; err != nil {
		return err
	}
	ad.ended(PhasePersist)
	defer ask(k.late)
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.gone {
		return errDeleted
	}
	return nil
}

// rest is what is left to write after the plugin has installed what it was given.
func (ad *Adding) rest() job {
	k, a := ad.k, ad.a
	k.mu.Lock()
	defer k.mu.Unlock()
	rs := k.compile(a)
	same := a.known != nil && new(comparison).same(a.known.Rules, rs)
	return job{a: a, rules: rs, version: k.version, was: a.known, same: same, written: true}
}

// handOver leaves the attachment, whose rules of the given version stand, to the
// rounds. Its namespace's descriptor, which pins the namespace, goes with it only
// where the path does not lead there from here.
func (ad *Adding) handOver(version uint64) error {
	k, a := ad.k, ad.a
	k.mu.Lock()
	record := a.record
	k.mu.Unlock()
	byPath, err := openNetns(record)
	if err == nil {
		_ = byPath.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.gone {
		return errDeleted
	}
	if err == nil {
		_ = ad.netns.Close()
	} else {
		k.Log.Warn("the namespace is kept open: its path does not lead to it from here",
			"pod", record.Pod(), "path", record.Netns, "error", err)
		a.netns = ad.netns
	}
	ad.netns = nil
	a.adding = false
	k.say(a)
	if k.version != version {
		k.wake() // rounds have passed it by
	}
	return nil
}

// Abort forgets an attachment whose ADD was not finished, unless another ADD has
// replaced it meanwhile. The rules that may stand already are left: the
// namespace goes, or an ADD comes again and replaces them.
func (ad *Adding) Abort() {
	if ad.netns != nil {
		_ = ad.netns.Close()
	}
	if err := ad.k.drop(ad.a); err != nil {
		ad.k.Log.Error("forget an attachment that was not added", "error", err)
	}
}

// Adopt takes over an attachment that was there before podwall: the next round
// installs its rules. One that is known already stays as it is, and so does one
// that has the same interface, if it is still there: the kernel gives a namespace
// the number of one that is gone.
func (k *Keeper) Adopt(r store.Record) bool {
	k.forgetGone(r)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.attachments[r.Key] != nil || k.occupant(r) != nil {
		return false
	}
	k.attach(&attachment{record: r, status: pending(r, "adopted; its rules are being installed")})
	k.changed()
	return true
}
