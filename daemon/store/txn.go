package store

import (
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// The buckets.
const (
	metaTable   = "meta"
	attachments = "attachments"
	files       = "files"
	quarantine  = "quarantine"
)

// errFailed is the answer after a panic in bbolt.
var errFailed = errors.New("the database failed before; restart podwalld")

// A txn is a transaction with the header as it will be written.
type txn struct {
	tx   *bolt.Tx
	head header
}

// view runs fn on a consistent state. What fn is given is valid until it
// returns.
func (s *Store) view(op string, fn func(*txn) error) error {
	return s.run(op, func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			h, err := readHeader(tx)
			if err != nil {
				return err
			}
			return fn(&txn{tx: tx, head: h})
		})
	})
}

// update runs fn and makes all it did durable or, on error, none of it.
func (s *Store) update(op string, fn func(*txn) error) error {
	return s.run(op, func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			h, err := readHeader(tx)
			if err != nil {
				return err
			}
			t := &txn{tx: tx, head: h}
			if err := fn(t); err != nil {
				return err
			}
			return t.writeHeader()
		})
	})
}

func (s *Store) run(op string, fn func() error) error {
	if s.failed.Load() {
		return fmt.Errorf("%s: %w", op, errFailed)
	}
	returned := false
	err := guarded(func() error {
		err := fn()
		returned = true
		return err
	})
	if !returned {
		s.failed.Store(true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func readHeader(tx *bolt.Tx) (header, error) {
	b := tx.Bucket([]byte(metaTable))
	if b == nil {
		return header{}, damaged("no bucket %s: not podwall's, or parts are missing", metaTable)
	}
	return parseHeader(b.Get(headerKey()))
}

func (t *txn) writeHeader() error {
	b, err := json.Marshal(t.head)
	if err != nil {
		return err
	}
	return t.tx.Bucket([]byte(metaTable)).Put(headerKey(), seal(metaTable, headerKey(), b))
}

// put stores value and keeps the tally.
func (t *txn) put(table string, key, value []byte) error {
	b := t.tx.Bucket([]byte(table))
	sealed := seal(table, key, value)
	t.head.Tables[table] = t.head.Tables[table].without(b.Get(key)).with(sealed)
	return b.Put(key, sealed)
}

// delete removes a value, if it is there, and keeps the tally.
func (t *txn) delete(table string, key []byte) error {
	b := t.tx.Bucket([]byte(table))
	t.head.Tables[table] = t.head.Tables[table].without(b.Get(key))
	return b.Delete(key)
}

// each calls fn for the values of a table, ordered by key.
func (t *txn) each(table string, fn func(key, value []byte) error) error {
	return t.tx.Bucket([]byte(table)).ForEach(func(key, stored []byte) error {
		value, err := unseal(table, key, stored)
		if err != nil {
			return err
		}
		return fn(key, value)
	})
}

// from calls fn for the values of a table from key on, ordered by key, until it
// returns false.
func (t *txn) from(table string, key []byte, fn func(key, value []byte) bool) error {
	c := t.tx.Bucket([]byte(table)).Cursor()
	for k, stored := c.Seek(key); k != nil; k, stored = c.Next() {
		value, err := unseal(table, k, stored)
		if err != nil || !fn(k, value) {
			return err
		}
	}
	return nil
}

// load makes the tables of a new file, or checks those of an old one. last is
// the number of the file's last transaction.
func (s *Store) load(last uint64) error {
	var empty bool
	err := s.run("read tables", func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			k, _ := tx.Cursor().First()
			empty = k == nil
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case empty && last > 1: // bbolt's own transactions of a new file are 0 and 1
		return damaged("the file is empty after %d transactions", last)
	case empty:
		return s.create()
	}
	return s.verify()
}

func (s *Store) create() error {
	return s.run("make tables", func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{metaTable, attachments, files, quarantine} {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			t := &txn{tx: tx, head: header{Schema: schema, Tables: map[string]tally{}}}
			return t.writeHeader()
		})
	})
}
