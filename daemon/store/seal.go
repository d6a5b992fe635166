package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// bbolt has no checksum for what it stores, so each value carries a seal over
// its table, key and content, and the header knows, of each table, how many
// values there are and the sum of their seals. A flipped bit breaks a seal; a
// value that vanished, or an old one that came back, breaks the sum.

const (
	sealSize = 8
	// schema is the version of everything in the file. A podwalld that reads a
	// later one refuses, so a later one must keep the header's place, seal and
	// field "schema".
	schema = 1
)

// seal returns value as it is stored.
func seal(table string, key, value []byte) []byte {
	return append(digest(table, key, value), value...)
}

// unseal returns the value that seal stored.
func unseal(table string, key, stored []byte) ([]byte, error) {
	if len(stored) < sealSize {
		return nil, damaged("%d bytes, shorter than its seal", len(stored))
	}
	value := stored[sealSize:]
	if !bytes.Equal(digest(table, key, value), stored[:sealSize]) {
		return nil, damaged("its seal does not fit its content")
	}
	return value, nil
}

func digest(table string, key, value []byte) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(table), key} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	h.Write(value)
	return h.Sum(nil)[:sealSize]
}

// A tally is what the header knows of a table.
type tally struct {
	Count int    `json:"count"`
	Sum   uint64 `json:"sum"` // exclusive or of the seals
}

// with returns the tally after stored came in.
func (t tally) with(stored []byte) tally {
	return tally{t.Count + 1, t.Sum ^ binary.BigEndian.Uint64(stored)}
}

// without returns the tally after stored went; nil was not there.
func (t tally) without(stored []byte) tally {
	if stored == nil {
		return t
	}
	return tally{t.Count - 1, t.Sum ^ binary.BigEndian.Uint64(stored)}
}

// A header is the one value of the meta bucket, rewritten by each transaction.
type header struct {
	Schema int              `json:"schema"`
	Boot   string           `json:"boot,omitempty"`
	Tables map[string]tally `json:"tables"`
}

// A SchemaError says that a newer podwalld wrote the database.
type SchemaError struct {
	Found, Known int
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("schema version %d: this podwalld knows up to %d; run the newer one, or move the file away to start without it", e.Found, e.Known)
}

func parseHeader(stored []byte) (header, error) {
	b, err := unseal(metaTable, headerKey(), stored)
	if err != nil {
		return header{}, fmt.Errorf("header: %w", err)
	}
	var v struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return header{}, damaged("header: %v", err)
	}
	if v.Schema > schema {
		return header{}, &SchemaError{Found: v.Schema, Known: schema}
	}
	h := header{}
	if err := json.Unmarshal(b, &h); err != nil || h.Schema < 1 {
		return header{}, damaged("header: schema %d: %v", h.Schema, err)
	}
	if h.Tables == nil {
		h.Tables = map[string]tally{}
	}
	return h, nil
}

func headerKey() []byte { return []byte("header") }
