package reconcile

import (
	"cmp"
	"fmt"

	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
)

// listen makes sure that changes in a's namespace are heard. Where they can't be,
// the sweep finds them.
func (k *Keeper) listen(a *attachment, netns int) {
	k.mu.Lock()
	listens := a.listens || k.Kernel.NamespaceID == nil
	k.mu.Unlock()
	if listens {
		return
	}
	id, err := k.Kernel.NamespaceID(netns)
	if err != nil {
		k.Log.Warn("changes by others are noticed by the sweep only", "pod", a.record.Pod(), "error", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a.listens, a.space = true, id
}

// Heard takes note of a change in some namespace. If it is one of an
// attachment's, and not the Keeper's own, a round looks at its rules.
func (k *Keeper) Heard(e tamper.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.attachments {
		switch {
		case a.adding || !a.listens || (a.space != e.Namespace && !e.Lost):
			continue
		case e.Generation != 0 && a.known != nil && a.known.Generation == e.Generation:
			continue // what is known already
		}
		if e.Generation != 0 {
			a.suspect = cmp.Or(a.suspect, e.Who()) // the first: a repair is heard, too
		}
		a.look = true
		k.Observer.Heard(e)
		if a.status.State == api.StateEnforced || e.Generation == 0 {
			k.wake()
		}
	}
}

// sameDevice returns the index of a's interface. If another device has its name
// now, that is an error: the rules go on to bind both, the one that was attached
// by its index and the new one by its name, which rules for the new one alone
// would not.
func (k *Keeper) sameDevice(a *attachment, netns int) (int, error) {
	k.mu.Lock()
	known := a.record.Index
	k.mu.Unlock()
	if k.Kernel.Index == nil {
		return known, nil
	}
	index, err := k.Kernel.Index(netns, a.record.Interface)
	if err != nil {
		return 0, fmt.Errorf("the attached device is gone or has another name: %w", err)
	}
	if known != 0 && index != known {
		return 0, fmt.Errorf("interface %s is another device than the one that was attached: index %d, not %d", a.record.Interface, index, known)
	}
	return index, nil
}
