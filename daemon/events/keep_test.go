package events

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func eventAt(second int) api.Event {
	return api.Event{Time: time.Unix(int64(1e9+second), 0).UTC(), Length: second,
		From: api.End{Address: netip.MustParseAddr("10.0.0.1")}, To: api.End{Address: netip.MustParseAddr("10.0.0.2"), Port: uint16(second)}}
}

// The ring holds the latest, its two files at most twice as many, and a ring that
// is read from them the same.
func TestRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	r := ring{path: path}
	const n = 3*ringSize + 17
	for i := range n {
		r.add(record{uint64(i), eventAt(i)})
		if i%100 == 0 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	again := ring{path: path}
	if err := again.load(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*ring{"written": &r, "read": &again} {
		all := r.since(time.Time{})
		if len(all) != ringSize || all[0].Length != n-ringSize || all[ringSize-1].Length != n-1 {
			t.Errorf("ring %s: %d events from %d to %d", name, len(all), all[0].Length, all[len(all)-1].Length)
		}
		if late := r.since(eventAt(n - 3).Time); len(late) != 3 {
			t.Errorf("ring %s: %d events since the third last", name, len(late))
		}
	}
	for _, p := range []string{path, path + ".old"} {
		if content, err := os.ReadFile(p); err != nil || bytes.Count(content, []byte("\n")) > ringSize+100 {
			t.Errorf("%s: %d lines, %v", p, bytes.Count(content, []byte("\n")), err)
		}
	}
}

// A disk that takes nothing costs memory for one ring at most.
func TestRingWithoutADisk(t *testing.T) {
	r := ring{path: filepath.Join(t.TempDir(), "missing", "ring")}
	for i := range 2*ringSize + 1 {
		r.add(record{uint64(i), eventAt(i)})
	}
	if err := r.flush(); err == nil || r.waiting > ringSize {
		t.Errorf("flush: %v with %d waiting", err, r.waiting)
	}
	if n := len(r.since(time.Time{})); n != ringSize {
		t.Errorf("%d events, want %d", n, ringSize)
	}
}

// A scan fills the table of what is dropped, and makes nobody forget what was
// accepted.
func TestFlowsAreBounded(t *testing.T) {
	m := newMemory("", time.Now())
	good := eventAt(80)
	good.Verdict = ruleset.Accepted
	m.add(&good)
	for i := range flowLimit + 10 {
		e := eventAt(i % 65536)
		e.From.Address = netip.MustParseAddr(fmt.Sprintf("10.1.%d.%d", i/250, i%250))
		m.add(&e)
	}
	all := m.list(time.Time{})
	if len(all.Flows) != flowLimit+1 || all.Forgotten != 10 {
		t.Errorf("%d flows, %d forgotten, want %d and 10", len(all.Flows), all.Forgotten, flowLimit+1)
	}
	m.add(&good)
	for _, f := range m.list(time.Time{}).Flows {
		if f.Verdict == ruleset.Accepted && f.Count != 2 {
			t.Errorf("the accepted flow was counted %d times", f.Count)
		}
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","verdict":"Drop","direction":"ingress"}` + "\n" + `{"time":`))
	f.Add([]byte("\n\n{}\nnull\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseEvents(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err) // memory can be read
		}
		for _, e := range list {
			if e.Time.IsZero() {
				t.Errorf("event without a time: %+v", e)
			}
		}
	})
}
