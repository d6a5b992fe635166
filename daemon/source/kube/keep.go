package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/policy"
)

// The names under which Files keeps the last known world:
//
//	.kube/1/complete                 {"at": "2026-11-21T01:02:03Z"}
//	.kube/1/Pod/shop/web-0           {"uid": …, "object": …}
//
// The number is the format's: contents of another one are not read.
const (
	Prefix   = ".kube/" // of all of them
	format   = Prefix + "1/"
	complete = format + "complete"
)

const (
	keepEvery = 2 * time.Second
	// batch is how many objects go into a transaction; others wait meanwhile.
	batch = 500
	// stampEvery is how often the time is stored up to which the world is known,
	// while nothing else is.
	stampEvery = 5 * time.Minute
)

// A stored is an object as Files has it.
type stored[T any] struct {
	UID    string `json:"uid,omitempty"`
	Object T      `json:"object"`
}

// A stampOf says that everything was stored at a moment. Without it what is there
// is the beginning of a world, and not to be relied on.
type stampOf struct {
	At time.Time `json:"at"`
}

func fileName(o object) string {
	return format + o.kind + "/" + o.Namespace + "/" + o.Name.Name
}

// parseName reads what fileName wrote.
func parseName(s string) (object, bool) {
	parts := strings.Split(strings.TrimPrefix(s, format), "/")
	if !strings.HasPrefix(s, format) || len(parts) != 3 || parts[2] == "" {
		return object{}, false
	}
	return object{parts[0], policy.Name{Namespace: parts[1], Name: parts[2]}}, true
}

// from is when what is published was stored, if it is from before this run.
func (l *ledger) from() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun || len(l.unlisted()) == 0 {
		return time.Time{}
	}
	return l.restored
}

// first reports whether o is stored before it is published: a restart must not bring
// back a time before a policy that was in force. Nothing else waits for a disk.
func (o object) first() bool { return o.kind == policyKind || o.kind == namespaceKind }

// saveFirst stores what is awaited.
func (l *ledger) saveFirst() { l.save(object.first, 0) }

// keep stores what is awaited at once, and the rest in batches, until ctx ends.
func (l *ledger) keep(ctx context.Context) error {
	if l.files == nil {
		return nil
	}
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	var stamped time.Time
	for {
		select {
		case <-ctx.Done(): // the last news are few, as a rule
			l.save(anything, batch)
			l.stamp(stamped)
			return nil
		case <-l.urgent:
			l.saveFirst()
			continue
		case <-tick.C: // whatever has gathered
		}
		saved := 0
		for ctx.Err() == nil {
			select {
			case <-l.urgent: // between two of many batches
				l.saveFirst()
			default:
			}
			n := l.save(anything, batch)
			if saved += n; n < batch {
				break
			}
		}
		if saved > 0 || time.Since(stamped) > stampEvery {
			stamped = l.stamp(stamped)
		}
	}
}

func anything(object) bool { return true }

// save stores those unsaved objects that are wanted, at most most of them if that
// is not 0, and returns how many.
func (l *ledger) save(wanted func(object) bool, most int) int {
	if l.files == nil {
		return 0
	}
	l.saving.Lock() // what is on its way is neither overtaken nor taken for stored
	defer l.saving.Unlock()
	l.mu.Lock()
	values := map[object][]byte{}
	for o, v := range l.unsaved {
		if wanted(o) {
			values[o] = v
			delete(l.unsaved, o)
		}
		if most > 0 && len(values) == most {
			break
		}
	}
	if len(l.unsaved) == 0 {
		l.unsaved = map[object][]byte{} // of its full size, else, for ever
	}
	l.mu.Unlock()
	if len(values) == 0 {
		return 0
	}
	err := l.store(values)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried(values, err)
	was := l.unsavable
	l.unsavable = ""
	if err != nil {
		l.unsavable = err.Error()
		for o, v := range values { // again the next time, unless there is newer
			if _, newer := l.unsaved[o]; !newer {
				l.unsaved[o] = v
			}
		}
		values = nil
	}
	if was != l.unsavable {
		l.wake()
	}
	return len(values)
}

// tried lets go of what was awaited: it is stored or, on error, can't be now, which
// must not keep a policy from being in force. l.mu is held.
func (l *ledger) tried(values map[object][]byte, err error) {
	for o := range values {
		if _, newer := l.unsaved[o]; l.awaited[o] && (err != nil || !newer) {
			delete(l.awaited, o)
			l.wake()
		}
	}
}

func (l *ledger) store(values map[object][]byte) error {
	contents := make(map[string][]byte, len(values))
	for o, content := range values {
		contents[fileName(o)] = content
	}
	return l.files.SaveFiles(contents)
}

// uid is the UID of an object, as far as it is known. l.mu is held.
func (l *ledger) uid(o object) string {
	for _, m := range l.mirrors {
		if e, ok := m.entries[o.Name]; ok && m.name == o.kind {
			return e.uid.String()
		}
	}
	return ""
}

// stamp stores that everything up to now is stored, if it is, and returns when
// that was done last.
func (l *ledger) stamp(last time.Time) time.Time {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	all := len(l.unsaved) == 0 && len(l.unlisted()) == 0
	l.mu.Unlock()
	if !all {
		return last
	}
	now := time.Now()
	b, err := json.Marshal(stampOf{now.UTC()})
	if err == nil {
		err = l.files.SaveFiles(map[string][]byte{complete: b})
	}
	if err != nil {
		l.log.Error("store up to when the cluster's state is known", "error", err)
		return last
	}
	return cmp.Or(now, last)
}
