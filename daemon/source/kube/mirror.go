package kube

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// A mirror follows one stream of objects. It is the store of a Reflector, and says
// to the ledger what differs from before.
type mirror struct {
	kind
	ledger *ledger

	// Guarded by the ledger's mutex.
	entries  map[policy.Name]entry
	problems map[policy.Name][]api.Problem
	listed   bool                  // the API server has been read to the end in this run
	lists    uint32                // how many there were
	kept     map[policy.Name]*item // of a kind that is kept whole
	ends     map[string]bool       // the namespaces that are terminating
	// ahead are the versions of objects that were asked for: whatever is older is
	// no news of them.
	ahead map[policy.Name]uint64
}

// An entry is what stays here of an object.
type entry struct {
	sum     uint64
	version uint64
	uid     uid
	list    uint32 // the last list that it was in
}

// Transformer takes objects in before a Reflector gathers them, so that it gathers
// no more than their names: it shows the whole list to Replace, which then finds
// what is gone. Until then what the list says is as true as what a watch says.
func (m *mirror) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		i, err := m.item(o)
		if err != nil {
			return nil, err
		}
		m.ledger.mu.Lock()
		defer m.ledger.mu.Unlock()
		m.put(i)
		m.ledger.listing = time.Now()
		return stub{i.Name}, nil
	}
}

// item is o as an item, which it may be already.
func (m *mirror) item(o any) (*item, error) {
	switch o := o.(type) {
	case *item:
		return o, nil
	case runtime.Object:
		return m.read(o)
	}
	return nil, fmt.Errorf("read %s: a %T came instead", m.name, o)
}

// Add is cache.ReflectorStore's.
func (m *mirror) Add(o any) error { return m.Update(o) }

// Update is cache.ReflectorStore's.
func (m *mirror) Update(o any) error {
	i, err := m.item(o)
	if err != nil {
		return err
	}
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.put(i)
	return nil
}

// Delete is cache.ReflectorStore's.
func (m *mirror) Delete(o any) error {
	i, err := m.item(o)
	if err != nil {
		return err
	}
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.drop(i.Name, i.version)
	return nil
}

// Replace is cache.ReflectorStore's: the list is all there is.
func (m *mirror) Replace(list []any, at string) error {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.lists++
	for _, o := range list {
		there, ok := o.(stub)
		if !ok {
			i, err := m.item(o)
			if err != nil {
				return err
			}
			there = stub{i.Name}
			m.put(i)
		}
		if e, known := m.entries[there.Name]; known {
			e.list = m.lists
			m.entries[there.Name] = e
		}
	}
	for name, e := range m.entries {
		if e.list != m.lists {
			m.drop(name, versionOf(at))
		}
	}
	m.listed = true
	m.ledger.unheard(m.name)
	m.ledger.wake()
	return nil
}

// wasListed reports whether the kind has been read in this run.
func (m *mirror) wasListed() bool {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	return m.listed
}

// Resync is cache.ReflectorStore's.
func (m *mirror) Resync() error { return nil }

// put notes that i exists. The ledger's mutex is held.
func (m *mirror) put(i *item) {
	if v, ok := m.ahead[i.Name]; ok {
		if i.version < v {
			return
		}
		delete(m.ahead, i.Name)
	}
	if len(i.problems) > 0 {
		m.problems[i.Name] = i.problems
	} else {
		delete(m.problems, i.Name)
	}
	o := object{m.name, i.Name}
	sum, waits := m.ledger.earlier[o]
	delete(m.ledger.earlier, o)
	old, known := m.entries[i.Name]
	if m.name == policyKind {
		delete(m.ledger.withdrawn, i.Name)
	}
	if known && old.sum == i.sum {
		old.version = i.version
		m.entries[i.Name] = old
		return
	}
	m.entries[i.Name] = entry{sum: i.sum, version: i.version, uid: uidOf(i.uid), list: old.list}
	if m.whole {
		m.kept[i.Name] = i
	}
	if n, ok := i.value.(policy.Namespace); ok && n.Terminating {
		m.ends[n.Name] = true
	} else if ok {
		delete(m.ends, n.Name)
	}
	if other := m.twin(i.Name); other == nil || other.whole {
		m.ledger.note(o, i, waits && sum == i.sum)
	}
}

// drop notes that the object of that name was gone at version at. The ledger's
// mutex is held.
func (m *mirror) drop(name policy.Name, at uint64) {
	if _, known := m.entries[name]; !known || at < m.ahead[name] {
		return
	}
	if m.name == policyKind {
		m.ledger.withdrawn[name] = true
		m.ledger.wake()
		return
	}
	m.forget(name)
}

// forget lets go of an object. The ledger's mutex is held.
func (m *mirror) forget(name policy.Name) {
	delete(m.entries, name)
	delete(m.problems, name)
	delete(m.ahead, name)
	delete(m.kept, name)
	delete(m.ends, name.Name)
	other := m.twin(name)
	switch {
	case other == nil:
		m.ledger.note(object{m.name, name}, nil, false)
	case other.whole: // until now this one stood for the name
		m.ledger.note(object{m.name, name}, other.kept[name], false)
	}
}

// twin returns another mirror of the same kind that has an object of that name, if
// there is one. A pod may follow another of its name that was in the node's network,
// and the two streams don't wait for each other; the one that is not kept whole
// counts then, until it is gone.
func (m *mirror) twin(name policy.Name) *mirror {
	for _, o := range m.ledger.mirrors {
		if o != m && o.name == m.name {
			if _, ok := o.entries[name]; ok {
				return o
			}
		}
	}
	return nil
}
