// Package store remembers what the daemon must not forget: the attachments of
// this node and the last good policy files, in a bbolt file.
//
//	meta         header ──▶ {schema, boot id, tally of each table}
//	attachments  container id NUL interface ──▶ seal, Record as JSON
//	files        name ──▶ seal, content
//	quarantine   table NUL key ──▶ what was found
//
// # Contract
//
// When a call that writes returns nil, the change is on disk: a kill or a power
// cut at any instant loses nothing that was acknowledged. A file that is
// damaged is set aside and replaced by an empty one; one damaged record is
// quarantined. Both are said, in Note. No content of the file makes this
// package panic.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// A NetnsID identifies a network namespace for as long as it and the machine's
// boot last.
type NetnsID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// A Record is an attachment and what was last installed for it.
type Record struct {
	api.Attachment
	NetnsID    NetnsID          `json:"netnsID"`
	Index      int              `json:"index,omitempty"` // of the interface, once rules stand for it
	Revision   string           `json:"revision"`
	Epoch      ruleset.Epoch    `json:"epoch"`
	Generation uint32           `json:"generation"` // of the namespace's nftables, after the transaction
	Adopted    ruleset.Adoption `json:"adopted"`
	AdoptedAt  time.Time        `json:"adoptedAt,omitzero"`
	AddedAt    time.Time        `json:"addedAt,omitzero"`
	AppliedAt  time.Time        `json:"appliedAt,omitzero"`
	Took       time.Duration    `json:"took"` // of the transaction, nanoseconds
	// Bypass says how traffic was seen to go past the rules; empty if it was not.
	Bypass string `json:"bypass,omitempty"`
}

// A RecordError says that one record could not be read. The record is in
// quarantine; the others are not affected.
type RecordError struct {
	Key api.Key // as far as it could be read
	Err error
}

func (e *RecordError) Error() string { return fmt.Sprintf("record of %s: %v", e.Key, e.Err) }

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

// A Store is an open database. Its methods may be called at the same time.
type Store struct {
	path  string
	file  *os.File // locked; bbolt closes it
	db    *bolt.DB
	notes []string
	bad   []*RecordError // found by Open
	// failed is set once bbolt panicked: its locks may be held for ever, so it
	// is not called again.
	failed atomic.Bool
}

// Close closes the database. Again is harmless.
func (s *Store) Close() error {
	if s.failed.Load() || s.db == nil {
		return ignoreClosed(s.file.Close())
	}
	return s.db.Close()
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Note says what happened when the database was opened, for people; it is empty
// if nothing did.
func (s *Store) Note() string { return strings.Join(s.notes, "; ") }

// Status describes the database.
func (s *Store) Status() api.StoreStatus {
	st := api.StoreStatus{Path: s.path, Note: s.Note()}
	if fi, err := os.Stat(s.path); err == nil {
		st.Bytes = fi.Size()
	}
	return st
}

// Put stores r, durably, in place of the record of the same key.
func (s *Store) Put(r Record) error { return s.PutMany([]Record{r}) }

// PutMany stores all of rs or, on error, none.
func (s *Store) PutMany(rs []Record) error { return s.Save(rs, nil) }

// Save stores the records put, each in place of the one of the same key, and
// forgets those of gone, of which some may not be there: all or, on error, nothing.
func (s *Store) Save(put []Record, gone []api.Key) error {
	if len(put)+len(gone) == 0 {
		return nil
	}
	return s.update("save "+subject(put, gone), func(t *txn) error {
		for _, r := range put {
			key, value, err := encode(r)
			if err != nil {
				return err
			}
			if err := t.put(attachments, key, value); err != nil {
				return err
			}
		}
		for _, k := range gone {
			if err := t.delete(attachments, recordKey(k)); err != nil {
				return err
			}
		}
		return nil
	})
}

func subject(put []Record, gone []api.Key) string {
	switch {
	case len(put) == 1 && len(gone) == 0:
		return "record " + put[0].Key.String()
	case len(put) == 0 && len(gone) == 1:
		return "that there is no record " + gone[0].String()
	}
	return fmt.Sprintf("%d records", len(put)+len(gone))
}

// Delete forgets the record of k. A record that is not there is no error.
func (s *Store) Delete(k api.Key) error { return s.Save(nil, []api.Key{k}) }

// All returns the records, ordered by key, and an error for each one that Open
// put into quarantine.
func (s *Store) All() ([]Record, []*RecordError, error) {
	var rs []Record
	err := s.view("read records", func(t *txn) error {
		return t.each(attachments, func(key, value []byte) error {
			r, err := decode(key, value)
			rs = append(rs, r)
			return err
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return rs, s.bad, nil
}

// BootID is the id that SetBoot stored last, empty if there is none.
func (s *Store) BootID() (string, error) {
	var id string
	err := s.view("read boot id", func(t *txn) error {
		id = t.head.Boot
		return nil
	})
	return id, err
}

// SetBoot stores the id of the machine's boot that the records are from.
func (s *Store) SetBoot(id string) error {
	return s.update("write boot id", func(t *txn) error {
		t.head.Boot = id
		return nil
	})
}

// Files returns the file contents that SaveFiles stored.
func (s *Store) Files() (map[string][]byte, error) {
	contents := map[string][]byte{}
	err := s.EachFile("", func(name string, content []byte) error {
		contents[name] = content
		return nil
	})
	if err != nil {
		return nil, err
	}
	return contents, nil
}

// EachFile calls visit for the files that SaveFiles stored whose names begin with
// prefix, ordered by name, until it returns an error, which EachFile returns then. Visit
// may write to the store: what it writes to names that are still to come may be
// visited or not.
func (s *Store) EachFile(prefix string, visit func(name string, content []byte) error) error {
	for next := prefix; ; {
		var names []string
		var contents [][]byte
		err := s.view("read files", func(t *txn) error {
			return t.from(files, []byte(next), func(key, value []byte) bool {
				if len(names) == many || !strings.HasPrefix(string(key), prefix) {
					return false
				}
				names, contents = append(names, string(key)), append(contents, bytes.Clone(value))
				return true
			})
		})
		if s.Unmap(); err != nil || len(names) == 0 {
			return err
		}
		for i, name := range names {
			if err := visit(name, contents[i]); err != nil {
				return err
			}
		}
		next = names[len(names)-1] + "\x00" // the least name after it
	}
}

// SaveFiles stores the contents by name in one transaction. A nil content
// deletes.
func (s *Store) SaveFiles(contents map[string][]byte) error {
	if len(contents) == 0 {
		return nil
	}
	if len(contents) >= many {
		defer s.Unmap()
	}
	return s.update(fmt.Sprintf("write %d files", len(contents)), func(t *txn) error {
		for name, content := range contents {
			var err error
			if content == nil {
				err = t.delete(files, []byte(name))
			} else {
				err = t.put(files, []byte(name), content)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}
