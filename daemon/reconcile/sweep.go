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

// sweep looks for what nobody tells the daemon: namespaces that went without a
// DEL, nftables changes by others, new addresses of the node, rules that could
// not be applied and may be now, and adoptions that are old enough.
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
	var generation uint32
	netns, err := k.open(a)
	if err == nil {
		generation, err = k.Kernel.Generation(int(netns.Fd()))
		_ = netns.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case a.gone:
	case errors.Is(err, errOtherNetns), a.status.State != api.StateEnforced:
		k.wake() // the round forgets it, or tries again
		a.look = true
	case err == nil && a.known != nil && a.known.Generation != generation:
		a.look = true
		k.wake()
	}
	if a.record.Adopted == ruleset.AdoptedNow && time.Since(a.record.AdoptedAt) > grace {
		a.record.Adopted = ruleset.AdoptedTCP
		k.changed()
	}
}
