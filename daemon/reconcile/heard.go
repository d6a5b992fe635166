package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"

	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
)

// listen makes sure that changes in a's namespace are heard. Where they can't be,
// the sweep finds them.
func (k *Keeper) listen(a *attachment, netns int) {
	k.mu.Lock()
	done := a.listens || k.deaf || k.Kernel.NamespaceID == nil
	k.mu.Unlock()
	if done {
		return
	}
	id, err := k.Kernel.NamespaceID(netns)
	if err != nil {
		k.Log.Warn("changes by others are noticed by the sweep only", "pod", a.record.Pod(), "error", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a.listens, a.space = !k.deaf, id
}

// Deafen says that nothing that happens in namespaces will be heard any more.
func (k *Keeper) Deafen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = true
	for _, a := range k.attachments {
		a.listens = false
	}
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
		case e.Generation != 0 && a.busy:
			a.meantime = e // it may be the Keeper's own: see endWriting
			continue
		}
		k.suspect(a, e)
	}
}

// suspect has the next round look at a's rules. k.mu is held.
func (k *Keeper) suspect(a *attachment, e tamper.Event) {
	if e.Generation != 0 {
		a.suspect = cmp.Or(a.suspect, e.Who()) // the first: a repair is heard, too
	} else {
		a.devices = true
	}
	a.look = true
	k.Observer.Heard(e)
	if a.status.State == api.StateEnforced || e.Generation == 0 {
		k.wake()
	}
}

// beginWriting notes that a's rules are about to be written.
func (k *Keeper) beginWriting(a *attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a.busy, a.meantime = true, tamper.Event{}
}

// endWriting ends what beginWriting began: what was heard since, and is not what is known
// now, was somebody else's.
func (k *Keeper) endWriting(a *attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a.busy = false
	if e := a.meantime; e.Generation != 0 && (a.known == nil || a.known.Generation != e.Generation) {
		k.suspect(a, e)
	}
}

// sameDevice returns the index of a's interface. If another device has its name
// now, that is an error: the rules go on to bind both, the one that was attached
// by its index and the new one by its name, which rules for the new one alone
// would not. So is one that has another name, or is gone. The error says what was
// attached and what became of it; that it is back is said once.
//
// It asks the kernel only if no answer holds: none since changes in the namespace
// are heard, or one before the last that was. After a change of a device it looks
// for those that take its packets.
func (k *Keeper) sameDevice(a *attachment, netns int) (int, error) {
	k.mu.Lock()
	known, stray, heard, holds := a.record.Index, a.stray, a.devices, a.listens && a.sameSince && !a.devices
	a.devices, a.sameSince = false, holds
	k.mu.Unlock()
	if k.Kernel.Index == nil || holds {
		return known, nil
	}
	index, err := k.Kernel.Index(netns, a.record.Interface)
	if err != nil && (known == 0 || !errors.Is(err, fs.ErrNotExist)) {
		return 0, err
	}
	if err != nil || known != 0 && index != known {
		err := k.strayed(netns, a.record.Interface, known, index)
		k.mu.Lock()
		defer k.mu.Unlock()
		a.stray = err.Error()
		return 0, err
	}
	k.mu.Lock()
	a.stray, a.sameSince = "", a.listens
	k.mu.Unlock()
	if stray != "" {
		k.Log.Warn("the attached device is what it was again", "pod", a.record.Pod(), "attachment", a.record.Key.String(), "was", stray)
	}
	if heard {
		k.lookBeside(a, netns)
	}
	return index, nil
}

// strayed says what became of the device that was attached by a name: it had one
// index, and what has the name now has another, or 0 for nothing.
func (k *Keeper) strayed(netns int, iface string, known, index int) error {
	what := "has left the namespace: deleted, or moved to another"
	if k.Kernel.Name != nil {
		if name, err := k.Kernel.Name(netns, known); err == nil {
			what = "is called " + name + " now"
		}
	}
	if index != 0 {
		what += fmt.Sprintf(", and another device (index %d) has its name", index)
	}
	return fmt.Errorf("interface %s: the attached device (index %d) %s", iface, known, what)
}

// lookBeside looks at once for what the sweep would find in its turn.
func (k *Keeper) lookBeside(a *attachment, netns int) {
	if k.Kernel.Bypass == nil {
		return
	}
	how, err := k.Kernel.Bypass(netns, a.record.Interface)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && a.record.Bypass != how { // else the sweep says so
		a.record.Bypass = how
		k.changed() // the next round says so
	}
}
