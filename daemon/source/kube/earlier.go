package kube

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/policy"
)

// restore notes what an earlier run stored, if it stored a whole world: not what it
// is, but how to tell whether it is still the same. As a rule the API server says
// what it is.
func (l *ledger) restore() {
	if l.files == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var whole stampOf
	err := l.files.EachFile(format, func(name string, content []byte) error {
		if o, ok := parseName(name); ok {
			l.earlier[o] = sumOf(content)
		} else if name == complete {
			_ = json.Unmarshal(content, &whole) // else the time is zero
		}
		return nil
	})
	if err == nil && whole.At.IsZero() && len(l.earlier) > 0 {
		err = fmt.Errorf("it was not stored to its end")
	}
	if l.restored = whole.At; err != nil {
		l.disown(err)
	}
}

// disown gives up what an earlier run stored. l.mu is held.
func (l *ledger) disown(fault error) {
	l.log.Error("the cluster's last known state can't be used; everything is read anew", "error", fault)
	l.restored = time.Time{}
	for o := range l.earlier {
		l.unsaved[o] = nil // until the API server says that it exists
	}
	l.earlier = map[object]uint64{}
}

// missing reports whether it is time to make do with what an earlier run stored.
func (l *ledger) missing(late bool) bool {
	away := late || len(l.faults()) > 0
	l.mu.Lock()
	defer l.mu.Unlock()
	return away && !l.begun && len(l.earlier) > 0 && !l.restored.IsZero() && len(l.unlisted()) > 0
}

// recall takes in what an earlier run stored, and publishes it in parts. If there is
// something that can't be read nothing of it counts.
func (l *ledger) recall(publish func(source.Update)) {
	var recalled []object
	err := l.files.EachFile(format, func(name string, content []byte) error {
		o, ok := parseName(name)
		if !ok {
			return nil
		}
		recalled = append(recalled, o)
		if err := l.recallOne(o, content); err != nil {
			return fmt.Errorf("%s %s: %w", o.kind, o.Name, err)
		}
		if u, ok := l.takeFull(); ok {
			publish(u)
		}
		return nil
	})
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disown(err)
	for _, o := range recalled {
		for _, m := range l.mirrors {
			if e, known := m.entries[o.Name]; known && m.name == o.kind && e.version == 0 {
				m.forget(o.Name)
			}
		}
	}
}

// recallOne takes in a stored object, unless there was news of it.
func (l *ledger) recallOne(o object, content []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.earlier[o]; !waits {
		return nil
	}
	err := l.readObject(o, content)
	if err == nil {
		delete(l.earlier, o) // if it is of a kind that is not read any more
	}
	return err
}

// readObject puts a stored object into its mirror. l.mu is held.
func (l *ledger) readObject(o object, content []byte) error {
	var s stored[json.RawMessage]
	if err := json.Unmarshal(content, &s); err != nil {
		return err
	}
	for _, m := range l.mirrors {
		if m.name != o.kind {
			continue
		}
		value, err := m.decode(s.Object)
		if err != nil {
			return err
		}
		if p, ok := value.(policy.Pod); ok && p.HostNetwork != m.whole {
			continue
		}
		i := &item{Name: o.Name, uid: s.UID}
		if err := i.fill(value); err != nil {
			return err
		}
		m.put(i)
		return nil
	}
	return nil // of a kind that is not read any more
}

// unheard lets go of what an earlier run stored of a kind and the API server does
// not have any more. A policy is taken in to be withdrawn: see confirm. l.mu is held.
func (l *ledger) unheard(kind string) {
	for _, m := range l.mirrors {
		if m.name == kind && !m.listed {
			return // a pod may be the other stream's
		}
	}
	for o := range l.earlier {
		if o.kind != kind {
			continue
		}
		if kind != policyKind || !l.withdrawEarlier(o) {
			l.unsaved[o] = nil
		}
		delete(l.earlier, o)
	}
	if len(l.earlier) == 0 {
		l.earlier = map[object]uint64{} // of its full size, else, for ever
	}
}

// withdrawEarlier takes a stored policy in, and drops it, if it can be read. l.mu is
// held.
func (l *ledger) withdrawEarlier(o object) bool {
	err := l.files.EachFile(fileName(o), func(name string, content []byte) error {
		if name != fileName(o) {
			return nil
		}
		return l.readObject(o, content)
	})
	if err != nil {
		l.log.Error("a policy that was stored can't be read; it does not exist any more", "policy", o.Name, "error", err)
		return false
	}
	for _, m := range l.mirrors {
		if m.name == policyKind {
			m.drop(o.Name, math.MaxUint64)
		}
	}
	return true
}
