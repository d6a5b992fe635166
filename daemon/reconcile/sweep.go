package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// grace is how long after its adoption any UDP flow of a pod may be older than
// its rules.
const grace = 30 * time.Second

// Watch sweeps once every interval until ctx ends. It also stores what no ADD waits
// for.
func (k *Keeper) Watch(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C: // look for what nobody told us
			k.sweep(ctx)
		case <-k.late: // an ADD, or a round, has ended
			k.store()
		}
	}
}

// store is saveAll, for whom only the log tells.
func (k *Keeper) store() {
	if err := k.saveAll(); err != nil {
		k.Log.Error("store what was applied", "error", err)
	}
}

// sweep looks for what nobody tells the daemon: namespaces that went without a
// DEL, nftables changes by others, new addresses of the node, rules that could
// not be applied and may be now, records that could not be stored, and adoptions
// that are old enough.
func (k *Keeper) sweep(ctx context.Context) {
	if err := k.Refresh(); err != nil {
		k.Log.Error("sweep", "error", err)
	}
	for _, a := range k.settled() {
		if ctx.Err() != nil {
			return
		}
		k.visit(a)
	}
	k.store()
	k.forgetUnused()
}

// settled returns the attachments that no ADD is working on.
func (k *Keeper) settled() []*attachment {
	k.mu.Lock()
	defer k.mu.Unlock()
	var as []*attachment
	for _, a := range k.attachments {
		if !a.adding {
			as = append(as, a)
		}
	}
	return as
}

// visit looks at one attachment and asks for a round if there is work.
func (k *Keeper) visit(a *attachment) {
	k.mu.Lock()
	known := a.known
	k.mu.Unlock()
	generation, bypass, err := k.look(a)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case a.gone:
		return
	case errors.Is(err, errOtherNetns), a.status.State != api.StateEnforced:
		a.look = true // the round forgets it, or tries again
		k.wake()
	case err == nil && known != nil && known == a.known && known.Generation != generation:
		a.look = true // somebody wrote there; if not a round, that is
		k.wake()
	}
	if err == nil && a.record.Bypass != bypass {
		a.record.Bypass = bypass
		k.changed() // the next round says so
	}
	if a.record.Adopted == ruleset.AdoptedNow && a.status.State == api.StateEnforced && over(a.record.AdoptedAt) {
		a.record.Adopted = ruleset.AdoptedTCP
		k.changed()
	}
}

// over reports whether the grace that began at start is over. It is, too, where
// the clock was set back beyond its beginning.
func over(start time.Time) bool {
	age := time.Since(start)
	return age < 0 || age > grace
}

// look returns the generation of the attachment's namespace, and how its traffic
// goes past the rules there. Where that can't be told it is as it was.
func (k *Keeper) look(a *attachment) (generation uint32, bypass string, err error) {
	netns, err := k.open(a)
	if err != nil {
		return 0, "", err
	}
	defer netns.Close()
	k.hearAgain(a, int(netns.Fd()))
	k.mu.Lock()
	bypass = a.record.Bypass
	k.mu.Unlock()
	if k.Kernel.Bypass != nil {
		now, err := k.Kernel.Bypass(int(netns.Fd()), a.record.Interface)
		if err == nil {
			bypass = now
		} else {
			k.Log.Error("see whether traffic goes past the rules", "pod", a.record.Pod(), "attachment", a.record.Key.String(), "error", err)
		}
	}
	generation, err = k.Kernel.Generation(int(netns.Fd()))
	return generation, bypass, err
}
