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
// have one, or have one still. The plugin, or this daemon's predecessor, has made
// them without; so the first time they are taken over before they are compared,
// and what has just been made for an owner gets one.
func (k *Keeper) apply(a *attachment, netns int, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
	iface := a.record.Interface
	if !rs.Owned || k.Kernel.Own == nil {
		return k.applyUnowned(a, netns, rs, last)
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

// applyUnowned makes rs stand in tables that anybody may change. Whoever owns them
// until now is the only one who can write that, and lets go of them afterwards.
func (k *Keeper) applyUnowned(a *attachment, netns int, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
	k.mu.Lock()
	o := k.owners[a.record.NetnsID]
	k.mu.Unlock()
	if o == nil {
		return k.Kernel.Apply(netns, a.record.Interface, rs, last)
	}
	now, wrote, err := o.Apply(netns, a.record.Interface, rs, last)
	if err == nil {
		k.release(a)
	}
	return now, wrote, err
}

// release gives up the tables of a's namespace, unless another of its interfaces
// has rules that are to be owned.
func (k *Keeper) release(a *attachment) {
	id := a.record.NetnsID
	k.mu.Lock()
	for _, o := range k.attachments {
		if o != a && o.record.NetnsID == id && (o.known == nil || o.known.Rules.Owned) {
			k.mu.Unlock()
			return
		}
	}
	owner := k.disown(id)
	k.mu.Unlock()
	k.finish(id, owner)
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

// A leaving is an owner that is giving up the tables of a namespace. They stay,
// and may be written to by others when that is done: it takes the kernel up to
// some 15 ms, and nobody should hold k.mu meanwhile.
type leaving struct {
	owner Owner
	done  chan struct{}
}

// disown begins to give up the tables of a namespace, if they are owned; the
// caller calls finish on what it returns once it has released k.mu. k.mu is held.
func (k *Keeper) disown(id store.NetnsID) *leaving {
	o := k.owners[id]
	if o == nil {
		return k.leaving[id] // somebody else's, to wait for
	}
	delete(k.owners, id)
	l := &leaving{owner: o, done: make(chan struct{})}
	k.leaving[id] = l
	return l
}

// disownLast is disown for a namespace that has no attachment any more.
func (k *Keeper) disownLast(id store.NetnsID) *leaving {
	for _, a := range k.attachments {
		if a.record.NetnsID == id {
			return nil
		}
	}
	return k.disown(id)
}

// finish waits until l has left, and makes it leave if it is the caller's own.
func (k *Keeper) finish(id store.NetnsID, l *leaving) {
	if l == nil {
		return
	}
	k.mu.Lock()
	mine := l.owner
	l.owner = nil
	k.mu.Unlock()
	if mine == nil {
		<-l.done
		return
	}
	mine.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leaving[id] == l {
		delete(k.leaving, id)
	}
	close(l.done)
}
