// Package store remembers what the daemon must not forget: the attachments of
// this node and the last good policy files, in a bbolt file.
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
	"fmt"
	"time"

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
	Revision   string           `json:"revision"`
	Epoch      ruleset.Epoch    `json:"epoch"`
	Generation uint32           `json:"generation"` // of the namespace's nftables, after the transaction
	Adopted    ruleset.Adoption `json:"adopted"`
	AdoptedAt  time.Time        `json:"adoptedAt,omitzero"`
	AddedAt    time.Time        `json:"addedAt,omitzero"`
	AppliedAt  time.Time        `json:"appliedAt,omitzero"`
	Took       time.Duration    `json:"took"` // of the transaction, nanoseconds
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
type Store struct{}

// Open opens the database at path, and makes it and its directory if they are
// not there.
func Open(path string) (*Store, error) { return &Store{}, nil }

// Close closes the database.
func (s *Store) Close() error { return nil }

// Note says what happened when the database was opened, for people; it is empty
// if nothing did.
func (s *Store) Note() string { return "" }

// Status describes the database.
func (s *Store) Status() api.StoreStatus { return api.StoreStatus{} }

// Put stores r, durably, in place of the record of the same key.
func (s *Store) Put(r Record) error { return s.PutMany([]Record{r}) }

// PutMany stores all of rs or, on error, none.
func (s *Store) PutMany(rs []Record) error { return nil }

// Delete forgets the record of k. A record that is not there is no error.
func (s *Store) Delete(k api.Key) error { return nil }

// All returns the records, ordered by key, and an error for each one that was
// put into quarantine since Open.
func (s *Store) All() ([]Record, []*RecordError, error) { return nil, nil, nil }

// BootID is the id that SetBoot stored last, empty if there is none.
func (s *Store) BootID() (string, error) { return "", nil }

// SetBoot stores the id of the machine's boot that the records are from.
func (s *Store) SetBoot(id string) error { return nil }

// Files returns the file contents that SaveFiles stored.
func (s *Store) Files() (map[string][]byte, error) { return nil, nil }

// SaveFiles stores the contents by name in one transaction. A nil content
// deletes.
func (s *Store) SaveFiles(contents map[string][]byte) error { return nil }
