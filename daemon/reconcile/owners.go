package reconcile

import (
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// An Owner writes to tables that only it may change. It pins their namespace.
type Owner interface {
	Apply(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error)
	Close()
}

// own is nft.Own, without a pointer to nothing in the interface.
func own(netns int, generation uint32) (Owner, uint32, error) {
	o, next, err := nft.Own(netns, generation)
	if o == nil {
		return nil, next, err
	}
	return o, next, err
}

// apply makes rs stand, by the owner of the namespace's tables where they are to
// have one. The plugin, or this daemon's predecessor, has made them without; so
// the first time they are taken over before they are compared, and what has just
// been made for an owner gets one.
func (k *Keeper) apply(a *attachment, netns int, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
	iface := a.record.Interface
	if !rs.Owned || k.Kernel.Own == nil {
		return k.Kernel.Apply(netns, iface, rs, last)
	}
	o, last, err := k.owner(a, netns, last)
	if err != nil {
		return nft.Known{}, false, err
	}
	if o != nil {
		return o.Apply(netns, iface, rs, last)
	}
	now, wrote, err := k.Kernel.Apply(netns, iface, rs, last)
	if err == nil {
		_, known, ownErr := k.owner(a, netns, &now)
		if ownErr != nil {
			return nft.Known{}, false, ownErr
		}
		if known != nil {
			now = *known
		}
	}
	return now, wrote, err
}

// owner returns the owner of the tables in a's namespace, and takes them over if
// nobody has. There is none where the tables don't exist yet, or were made for
// none. What was known of them is known under another generation afterwards.
func (k *Keeper) owner(a *attachment, netns int, known *nft.Known) (Owner, *nft.Known, error) {
	id := a.record.NetnsID
	k.mu.Lock()
	o := k.owners[id]
	k.mu.Unlock()
	if o != nil {
		return o, known, nil
	}
	var generation uint32
	if known != nil {
		generation = known.Generation
	}
	o, next, err := k.Kernel.Own(netns, generation)
	k.mu.Lock()
	defer k.mu.Unlock()
	if other := k.owners[id]; err != nil && other != nil {
		return other, nil, nil // for another of the pod's interfaces, a moment ago
	}
	if o == nil || err != nil {
		return nil, known, err
	}
	if a.gone {
		defer o.Close()
		return nil, nil, nil
	}
	k.owners[id] = o
	if known != nil {
		moved := *known
		moved.Generation = next
		known = &moved
	}
	return o, known, nil
}

// disown takes the owner of a namespace's tables out of the Keeper, for the
// caller to close once it has released k.mu: that waits for the kernel. The
// tables stay. k.mu is held.
func (k *Keeper) disown(id store.NetnsID) Owner {
	o := k.owners[id]
	delete(k.owners, id)
	return o
}

// disownLast is disown for a namespace that has no attachment any more.
func (k *Keeper) disownLast(id store.NetnsID) Owner {
	for _, a := range k.attachments {
		if a.record.NetnsID == id {
			return nil
		}
	}
	return k.disown(id)
}
