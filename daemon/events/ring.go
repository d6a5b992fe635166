package events

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
)

// ringSize is how many events a ring holds.
const ringSize = 4096

// longestLine bounds what is read of one line of a file; no event is as long.
const longestLine = 64 << 10

// A record is an event as a ring keeps it.
type record struct {
	// N numbers the events that were seen, in the order in which they were.
	N uint64 `json:"n"`
	api.Event
}

// A ring holds the most recent events, and writes them to a file in batches: one
// JSON object a line. When the file has as many as the ring it becomes the old
// file, in place of the one before; so the two hold what the ring held.
type ring struct {
	path    string // of the file; empty keeps nothing
	events  []record
	next    int // where the oldest is, once the ring is full
	pending bytes.Buffer
	waiting int // events in pending
	lines   int // in the file
}

// add puts e in place of the oldest.
func (r *ring) add(e record) {
	if len(r.events) < ringSize {
		r.events = append(r.events, e)
	} else {
		r.events[r.next] = e
		r.next = (r.next + 1) % ringSize
	}
	if r.path == "" {
		return
	}
	if r.waiting == ringSize { // the disk has taken none for long
		r.pending.Reset()
		r.waiting = 0
	}
	if err := json.NewEncoder(&r.pending).Encode(e); err == nil { // plain data: it always is
		r.waiting++
	}
}

// since returns the events of t and later, oldest first.
func (r *ring) since(t time.Time) []api.Event {
	var list []api.Event
	for _, e := range r.all() {
		if !e.Time.Before(t) {
			list = append(list, e.Event)
		}
	}
	return list
}

// all returns what the ring holds, oldest first.
func (r *ring) all() []record { return slices.Concat(r.events[r.next:], r.events[:r.next]) }

// flush writes what was added since the last time. What can't be written is
// tried again, up to a ring full of it.
func (r *ring) flush() error {
	if r.waiting == 0 {
		return nil
	}
	if r.lines >= ringSize {
		if err := os.Rename(r.path, r.path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write events: %w", err)
		}
		r.lines = 0
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	_, err = f.Write(r.pending.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	r.lines += r.waiting
	r.waiting = 0
	r.pending.Reset()
	return nil
}

// load reads what an earlier daemon has written. Lines that are no events are
// left out: the last one may have been cut.
func (r *ring) load() error {
	var all []record
	for _, path := range []string{r.path + ".old", r.path} {
		events, err := readEvents(path)
		if err != nil {
			return err
		}
		r.lines = len(events)
		all = append(all, events...)
	}
	all = all[max(0, len(all)-ringSize):]
	r.events, r.next = slices.Clip(all), 0
	return r.mend()
}

// mend ends the file with the end of a line, so that what comes next is not
// added to half of one.
func (r *ring) mend() error {
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mend events: %w", err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, end-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = f.Write([]byte("\n"))
	return err
}

// readEvents reads a file of events; one that does not exist has none.
func readEvents(path string) ([]record, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer f.Close()
	return parseEvents(f)
}

func parseEvents(f io.Reader) ([]record, error) {
	var events []record
	lines := bufio.NewReaderSize(f, longestLine)
	for {
		line, err := lines.ReadSlice('\n')
		var e record
		if err == nil && json.Unmarshal(line, &e) == nil && !e.Time.IsZero() {
			if events = append(events, e); len(events) > 2*ringSize {
				events = slices.Delete(events, 0, ringSize)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return events, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return events, fmt.Errorf("read events: %w", err)
		}
	}
}
