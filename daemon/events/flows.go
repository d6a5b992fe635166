package events

import (
	"cmp"
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// flowLimit is how many flows of one verdict are remembered. Each verdict has
// its own, so that a scan whose packets are dropped makes nobody forget what is
// accepted.
const flowLimit = 8192

// A flowKey is what the events of one flow have in common. An end that is
// somebody's counts by its name, else by its address.
type flowKey struct {
	from, to  string
	port      uint16
	protocol  string
	direction ruleset.Direction
}

// Flows are the flows of one verdict, the most recent first.
type flows struct {
	byKey map[flowKey]*list.Element // of *api.Flow
	order *list.List
}

func newFlows() *flows { return &flows{byKey: map[flowKey]*list.Element{}, order: list.New()} }

func keyOf(f *api.Flow) flowKey {
	return flowKey{identity(&f.From), identity(&f.To), f.To.Port, f.Protocol, f.Direction}
}

func identity(e *api.End) string { return cmp.Or(e.Name(), e.Address.String()) }

// add counts f's events, and reports whether another flow had to go for it.
func (t *flows) add(f api.Flow) (forgot bool) {
	key := keyOf(&f)
	if at, ok := t.byKey[key]; ok {
		have := at.Value.(*api.Flow)
		f.First, f.Count = have.First, f.Count+have.Count
		if f.From.Labels == nil && f.To.Labels == nil { // from a file, without them
			f.From, f.To = have.From, have.To
		}
		*have = f
		t.order.MoveToFront(at)
		return false
	}
	t.byKey[key] = t.order.PushFront(&f)
	if t.order.Len() <= flowLimit {
		return false
	}
	oldest := t.order.Remove(t.order.Back()).(*api.Flow)
	delete(t.byKey, keyOf(oldest))
	return true
}

// since returns the flows that were seen at t or later, most recent first.
func (t *flows) since(when time.Time) []api.Flow {
	var all []api.Flow
	for at := t.order.Front(); at != nil; at = at.Next() {
		if f := at.Value.(*api.Flow); !f.Last.Before(when) {
			all = append(all, *f)
		}
	}
	return all
}

// A memory is what was observed over a long time.
type memory struct {
	path  string // of the file; empty keeps nothing
	dirty bool
	next  uint64 // the number of the event to come
	api.FlowList
	byFate [3]*flows
}

func newMemory(path string, now time.Time) *memory {
	m := &memory{path: path, byFate: [3]*flows{newFlows(), newFlows(), newFlows()}}
	m.Began = now
	return m
}

// add counts an event, whose ends have their labels, and returns its number.
func (m *memory) add(e *api.Event) uint64 {
	f := api.Flow{From: e.From, To: e.To, Protocol: e.Protocol, Direction: e.Direction, Verdict: e.Verdict, Reason: e.Reason,
		First: e.Time, Last: e.Time, Count: 1}
	f.From.Port = 0
	m.put(f)
	m.next++
	return m.next - 1
}

func (m *memory) put(f api.Flow) {
	m.dirty = true
	if int(f.Verdict) < len(m.byFate) && m.byFate[f.Verdict].add(f) {
		m.Forgotten++
	}
}

// list returns what was seen at t or later, most recent first.
func (m *memory) list(t time.Time) api.FlowList {
	l := m.FlowList
	l.Flows = []api.Flow{}
	for _, flows := range m.byFate {
		l.Flows = append(l.Flows, flows.since(t)...)
	}
	slices.SortStableFunc(l.Flows, func(a, b api.Flow) int { return b.Last.Compare(a.Last) })
	return l
}

// A saved memory is what the file holds: all events before the one numbered Next
// are counted in it.
type saved struct {
	Next uint64 `json:"next"`
	api.FlowList
}

// save writes the memory to its file, whole or not at all.
func (m *memory) save() error {
	if m.path == "" || !m.dirty {
		return nil
	}
	b, err := json.Marshal(saved{Next: m.next, FlowList: m.list(time.Time{})})
	if err == nil {
		err = os.WriteFile(m.path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(m.path+".new", m.path)
	}
	if err != nil {
		return fmt.Errorf("write flows: %w", err)
	}
	m.dirty = false
	return nil
}

// load reads what an earlier daemon has saved.
func (m *memory) load() error {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read flows from %s: %w", m.path, err)
	}
	m.next, m.Began, m.Forgotten, m.Hidden, m.Lost = s.Next, s.Began, s.Forgotten, s.Hidden, s.Lost
	for _, f := range slices.Backward(s.Flows) { // the most recent last
		m.put(f)
	}
	m.dirty = false
	return nil
}
