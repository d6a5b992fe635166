package reconcile

import (
	"errors"

	"github.com/podwall/podwall/internal/api"
)

// Knows reports whether the attachment of this key is one of the Keeper's.
func (k *Keeper) Knows(key api.Key) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.attachments[key] != nil
}

// Delete forgets an attachment, durably. One that is not known is no error. The
// rules stay with the namespace, and nothing is written there any more.
func (k *Keeper) Delete(key api.Key) error {
	k.mu.Lock()
	a := k.attachments[key]
	k.mu.Unlock()
	if a == nil {
		return k.persist(key) // it may be in the store all the same
	}
	return k.drop(a)
}

// Keep forgets the attachments of a network that are not in valid, as CNI GC
// asks. It goes on after errors and returns them joined.
func (k *Keeper) Keep(network string, valid []api.Key) error {
	keep := map[api.Key]bool{}
	for _, v := range valid {
		keep[v] = true
	}
	k.mu.Lock()
	var gone []*attachment
	for key, a := range k.attachments {
		if a.record.Network == network && !keep[key] && !a.adding {
			gone = append(gone, a)
		}
	}
	k.mu.Unlock()
	var errs []error
	for _, a := range gone {
		k.Log.Info("forget an attachment the runtime does not know", "attachment", a.record.Key.String(), "network", network)
		errs = append(errs, k.drop(a))
	}
	return errors.Join(errs...)
}

// drop forgets a, durably. If its key is another attachment's by now, that one
// stays.
func (k *Keeper) drop(a *attachment) error {
	k.letGo(a)
	return k.persist(a.record.Key)
}

// vanished forgets a, whose namespace is gone. Nobody waits for the store to know.
func (k *Keeper) vanished(a *attachment) {
	k.Log.Info("forget an attachment whose namespace is gone", "pod", a.record.Pod(), "attachment", a.record.Key.String())
	k.letGo(a)
	k.owe(a.record.Key)
}

// letGo forgets a, but for the store.
func (k *Keeper) letGo(a *attachment) {
	k.mu.Lock()
	if k.attachments[a.record.Key] == a {
		k.detach(a)
		k.changed()
	}
	a.forget()
	owner := k.disownLast(a.record.NetnsID)
	k.mu.Unlock()
	k.finish(a.record.NetnsID, owner)
	a.settle()
	k.silence(a)
}
