package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// An Adding is an attachment in the middle of ADD. It ends with Finish or Abort.
type Adding struct {
	Rules ruleset.RuleSet // for the plugin to install

	k       *Keeper
	a       *attachment
	netns   *os.File
	version uint64 // the first that has the attachment
}

// Begin starts the ADD of req, whose namespace is netns, and returns the rule
// set to install. From here on the attachment's addresses are in other pods'
// rules. Begin takes over netns, and closes it on error. An earlier attachment
// of the same key is replaced.
func (k *Keeper) Begin(req api.Attachment, netns *os.File) (*Adding, error) {
	ad, err := k.begin(req, netns)
	if err != nil {
		_ = netns.Close()
		return nil, err
	}
	return ad, nil
}

func (k *Keeper) begin(req api.Attachment, netns *os.File) (*Adding, error) {
	if err := checkNetns(netns); err != nil {
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
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.synced.IsZero() {
		return nil, errNotSynced
	}
	if old := k.attachments[req.Key]; old != nil {
		old.forget()
	}
	a := &attachment{record: store.Record{Attachment: req, NetnsID: id, AddedAt: stamp()}, adding: true}
	a.status = pending(a.record, "being added")
	k.attachments[req.Key] = a
	k.changed()
	rules := k.compile(a)
	return &Adding{Rules: rules, k: k, a: a, netns: netns, version: k.version}, nil
}

// Finish ends an ADD whose plugin has installed the rules: it waits until every
// other pod's rules know the attachment, brings its own up to date, and makes it
// durable. On error the ADD has failed and is as if aborted.
func (ad *Adding) Finish(ctx context.Context, done api.Applied) error {
	if err := ad.finish(ctx, done); err != nil {
		ad.Abort()
		return err
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
		return api.Errorf(api.CodeUnavailable, "add %s: %v", a.record.Key, err)
	}
	if err := ad.catchUp(); err != nil {
		return api.Errorf(api.CodeUnavailable, "add %s: %v", a.record.Key, err)
	}
	ad.keepNetns()
	return nil
}

// catchUp brings the attachment to the present version, stores it, and hands it
// to the rounds.
func (ad *Adding) catchUp() error {
	k, a := ad.k, ad.a
	k.mu.Lock()
	j := job{a: a, rules: k.compile(a), version: k.version}
	k.mu.Unlock()
	if err := k.write(j, int(ad.netns.Fd())); err != nil {
		return err
	}
	k.mu.Lock()
	record := a.record
	k.mu.Unlock()
	if err := k.Store.PutMany([]store.Record{record}); err != nil {
		return fmt.Errorf("store the attachment: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.gone {
		return errors.New("it was deleted meanwhile")
	}
	a.adding = false
	if k.version != j.version {
		k.wake() // rounds have passed it by
	}
	return nil
}

// keepNetns keeps the namespace's descriptor where its path does not lead to it
// from here, and closes it otherwise: a descriptor pins the namespace.
func (ad *Adding) keepNetns() {
	k, a := ad.k, ad.a
	k.mu.Lock()
	defer k.mu.Unlock()
	f, err := openNetns(a.record)
	if err == nil {
		_ = f.Close()
		_ = ad.netns.Close()
		return
	}
	k.Log.Warn("the namespace is kept open: its path does not lead to it from here", "pod", a.record.Pod(), "path", a.record.Netns, "error", err)
	if a.gone {
		_ = ad.netns.Close()
		return
	}
	// High numbers, because package nft needs the low ones.
	const high = 4096
	if fd, err := unix.FcntlInt(ad.netns.Fd(), unix.F_DUPFD_CLOEXEC, high); err == nil {
		_ = ad.netns.Close()
		ad.netns = os.NewFile(uintptr(fd), a.record.Netns)
	}
	a.netns = ad.netns
}

// Abort forgets an attachment whose ADD was not finished, unless another ADD has
// replaced it meanwhile. The rules that may stand already are left: the
// namespace goes, or an ADD comes again and replaces them.
func (ad *Adding) Abort() {
	k, a := ad.k, ad.a
	_ = ad.netns.Close()
	k.mu.Lock()
	a.forget()
	if k.attachments[a.record.Key] == a {
		delete(k.attachments, a.record.Key)
		k.changed()
	}
	replaced := k.attachments[a.record.Key] != nil
	k.mu.Unlock()
	if replaced {
		return
	}
	if err := k.Store.Delete(a.record.Key); err != nil {
		k.Log.Error("forget an attachment that was not added", "attachment", a.record.Key.String(), "error", err)
	}
}

// Adopt takes over an attachment that was there before podwall: the next round
// installs its rules. One that is known already stays as it is.
func (k *Keeper) Adopt(r store.Record) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.attachments[r.Key] != nil {
		return false
	}
	k.attachments[r.Key] = &attachment{record: r, status: pending(r, "adopted; its rules are being installed")}
	k.changed()
	return true
}
