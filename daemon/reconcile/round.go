package reconcile

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// errOtherNetns says that an attachment's namespace is not there any more.
var errOtherNetns = errors.New("the namespace is gone")

// A job is one attachment's rule set at one version.
type job struct {
	a       *attachment
	rules   ruleset.RuleSet
	version uint64
	was     *nft.Known // what was known when the rule set was compiled
	same    bool       // was says that just these rules stand
	shared  *nft.Round // with the round's other jobs; nil if there is none
	written bool       // a moment ago, by the plugin: what the attachment knows needs no look
}

// round brings every attachment to the present version.
func (k *Keeper) round(ctx context.Context) {
	shared := &nft.Round{}
	jobs, version, ok := k.plan(shared)
	if !ok {
		return // nothing is enforced before the source has spoken
	}
	k.carryOutAll(ctx, jobs)
	k.ending.Wait() // so that the sockets of two rounds at most are open
	k.ending.Go(shared.End)
	k.owe(k.unstored(jobs)...)
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() == nil {
		k.done = version
		k.reached()
		close(k.roundDone)
		k.roundDone = make(chan struct{})
	}
}

// unstored returns the keys of those that the store does not have at all. The
// others' records wait for the sweep.
func (k *Keeper) unstored(jobs []job) []api.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	var keys []api.Key
	for _, j := range jobs {
		if j.a.stored.Key != j.a.record.Key {
			keys = append(keys, j.a.record.Key)
		}
	}
	return keys
}

// plan compiles the rule sets of all attachments and returns those to look at:
// the ones that differ from what stands, or where that is not known. The jobs share
// shared.
func (k *Keeper) plan(shared *nft.Round) (jobs []job, version uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.synced.IsZero() {
		return nil, 0, false
	}
	k.take()
	k.digests.age()
	var c comparison
	for _, a := range k.attachments {
		if a.adding {
			continue // its own ADD brings it up to date
		}
		rs := c.join(k.compile(a))
		k.say(a)
		if a.restored {
			a.restored = false
			a.known = k.remembered(a.record, rs)
		}
		same := a.known != nil && c.same(a.known.Rules, rs)
		if same && !a.look && a.status.State == api.StateEnforced {
			a.applied = k.version
			known := *a.known // others may be reading it
			known.Rules = rs  // what pods share they share in memory too
			a.known = &known
			continue
		}
		a.look = false
		jobs = append(jobs, job{a: a, rules: rs, version: k.version, was: a.known, same: same, shared: shared})
	}
	return jobs, k.version, true
}

// remembered is what the store says to stand in the kernel, if that is rs. The
// generation then tells whether it still does, without reading the rules.
func (k *Keeper) remembered(r store.Record, rs ruleset.RuleSet) *nft.Known {
	if r.Revision == "" || r.Revision != rs.RevisionBy(k.digests.of) {
		return nil
	}
	known := &nft.Known{Rules: rs, Epoch: r.Epoch, Generation: r.Generation}
	for _, o := range k.attachments {
		if o.record.NetnsID == r.NetnsID && o.record.Key != r.Key {
			known.Others = append(known.Others, o.record.Epoch)
		}
	}
	return known
}

// carryOutAll carries out jobs, Parallel at once, until ctx ends.
func (k *Keeper) carryOutAll(ctx context.Context, jobs []job) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(max(k.Parallel, 1), len(jobs)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(jobs) && ctx.Err() == nil; i = next.Add(1) - 1 {
				k.carryOut(jobs[i])
			}
		})
	}
	workers.Wait()
}

// carryOut makes one attachment's rules stand, and notes how that went.
func (k *Keeper) carryOut(j job) {
	netns, err := k.open(j.a)
	if err == nil {
		defer netns.Close()
		err = k.write(j, int(netns.Fd()))
	}
	switch {
	case err == nil:
	case errors.Is(err, errOtherNetns):
		k.vanished(j.a)
	default:
		k.failed(j.a, err)
	}
}

// write makes j's rules stand in the namespace, unless newer ones do.
func (k *Keeper) write(j job, netns int) (err error) {
	a := j.a
	a.writing.Lock()
	defer a.writing.Unlock()
	k.mu.Lock()
	last, stale := a.known, a.gone || a.applied > j.version
	try := Attempt{Again: a.status.State == api.StateError}
	k.mu.Unlock()
	if stale {
		return nil
	}
	defer func() { try.Err = err; k.Observer.Attempted(try) }()
	defer func() { k.hear(a, netns) }()
	k.listen(a, netns) // before it looks: what changes afterwards is heard
	index, err := k.sameDevice(a, netns)
	if err != nil {
		return err
	}
	if j.written && !j.rules.Owned && j.same && last == j.was {
		k.mu.Lock()
		defer k.mu.Unlock()
		a.record.Index, a.applied = index, j.version
		return nil
	}
	strange := k.strange(a, netns, last)
	k.beginWriting(a)
	defer k.endWriting(a)
	start := time.Now()
	now, wrote, err := k.apply(a, netns, j.rules, j.compared(last, index))
	took := time.Since(start)
	try.Took, try.Wrote = took, wrote
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a.record.Index = index
	if a.record.Revision == "" && a.record.Adopted == ruleset.AdoptedNow {
		a.record.AdoptedAt = stamp() // grace counts from its first rules on
	}
	if wrote {
		k.Log.Debug("rules applied", "pod", a.record.Pod(), "attachment", a.record.Key.String(), "epoch", now.Epoch, "took", took)
		a.record.AppliedAt, a.record.Took = stamp(), took
		if strange || j.same && last == j.was {
			try.Foreign = true
			k.Log.Warn("the rules, or others beside them, had been changed by somebody else; they are as they should be now",
				"pod", a.record.Pod(), "attachment", a.record.Key.String(), "by", cmp.Or(a.suspect, "unknown"), "changed", now.Found[:min(len(now.Found), 5)])
		}
	}
	a.suspect = ""
	k.enforced(a, now, j.version)
	return nil
}

// compared is what is known to stand, with what the round has found to differ and
// the index that the interface has just had.
func (j job) compared(last *nft.Known, index int) *nft.Known {
	if last == nil {
		return nil
	}
	with := *last // others may be reading it
	with.Round, with.Index = j.shared, index
	return &with
}

// strange reports whether nftables in a's namespace is not as an earlier run of
// the daemon left it, where last does not tell.
func (k *Keeper) strange(a *attachment, netns int, last *nft.Known) bool {
	k.mu.Lock()
	generation := a.record.Generation
	k.mu.Unlock()
	if last != nil || generation == 0 {
		return false
	}
	now, err := k.Kernel.Generation(netns)
	return err == nil && now != generation
}

// enforced notes what stands in the kernel. k.mu is held.
func (k *Keeper) enforced(a *attachment, now nft.Known, version uint64) {
	a.known, a.applied = &now, version
	a.record.Epoch, a.record.Generation = now.Epoch, now.Generation
	a.record.Revision = now.Rules.RevisionBy(k.digests.of)
	r := a.record
	a.status = api.AttachmentStatus{State: api.StateEnforced, Revision: r.Revision, Epoch: r.Epoch, AppliedAt: r.AppliedAt, Took: r.Took}
}

// failed notes that the rules could not be made to stand, and that what does is
// not known any more. It says so once for each cause.
func (k *Keeper) failed(a *attachment, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.gone {
		return
	}
	if a.status.State != api.StateError || a.status.Message != err.Error() {
		k.Log.Error("rules not applied; tried again from now on", "pod", a.record.Pod(), "attachment", a.record.Key.String(), "error", err)
	}
	a.known = nil
	a.status.State, a.status.Message = api.StateError, err.Error()
}
