package reconcile

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
)

// A batch is what is written to the store in one transaction for many callers:
// it is on the disk for all of them after one write and one wait for the disk.
type batch struct {
	keys    []api.Key // guarded by the Keeper's mutex, until written begins
	written bool      // this and err are guarded by storing
	err     error
}

// persist makes the store hold of these keys what the Keeper knows at this moment
// or later. Each change in memory is followed by a persist, and batches take
// turns, so the last of them leaves the store right whatever the order in which
// they come. Who waits for its turn waits for the same batch as all who do.
func (k *Keeper) persist(keys ...api.Key) error {
	b := k.join(keys)
	k.storing.Lock()
	defer k.storing.Unlock()
	if !b.written {
		b.written, b.err = true, k.save(k.leave(b))
	}
	return b.err
}

// join adds keys to the batch that is not being written yet.
func (k *Keeper) join(keys []api.Key) *batch {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.batch == nil {
		k.batch = &batch{}
	}
	k.batch.keys = append(k.batch.keys, keys...)
	return k.batch
}

// leave ends the joining of b, and returns its keys.
func (k *Keeper) leave(b *batch) []api.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.batch == b {
		k.batch = nil
	}
	return b.keys
}

// save writes what the Keeper knows of keys. k.storing is held.
func (k *Keeper) save(keys []api.Key) error {
	changed, gone := k.unsaved(keys)
	if len(changed)+len(gone) == 0 {
		return nil
	}
	if err := k.Store.Save(changed, gone); err != nil {
		return fmt.Errorf("store attachments: %w", err)
	}
	k.saved(changed)
	return nil
}

// unsaved returns the records that differ from what the store holds, and the
// keys that it should not hold.
func (k *Keeper) unsaved(keys []api.Key) (changed []store.Record, gone []api.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	met := map[api.Key]bool{}
	for _, key := range keys {
		if met[key] {
			continue
		}
		met[key] = true
		switch a := k.attachments[key]; {
		case a == nil:
			gone = append(gone, key)
		case !reflect.DeepEqual(a.record, a.stored):
			changed = append(changed, a.record)
		}
	}
	return changed, gone
}

// saved notes what the store holds.
func (k *Keeper) saved(records []store.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range records {
		if a := k.attachments[r.Key]; a != nil {
			a.stored = r
		}
	}
}

// owe has what is known of keys stored soon. Rounds do not wait for a disk, and so
// no remote pod does: not to have it costs a look at the kernel, or at a namespace
// that is gone, after the next start.
func (k *Keeper) owe(keys ...api.Key) {
	if len(keys) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owed = append(k.owed, keys...)
	ask(k.late)
}

// saveAll writes what rounds have left to be written.
func (k *Keeper) saveAll() error {
	k.mu.Lock()
	owed := k.owed
	k.owed = nil
	k.mu.Unlock()
	keys := slices.Clone(owed)
	for _, a := range k.settled() {
		keys = append(keys, a.record.Key)
	}
	err := k.persist(keys...)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.owed = append(k.owed, owed...) // for the next sweep
	}
	return err
}
