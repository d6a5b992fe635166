package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A damage says that a file's content is not what the store wrote, and holds
// what could be read of it.
type damage struct {
	text   string
	file   fs.FileInfo // the damaged file
	boot   string
	values []find
	bad    []find
}

// A find is one value in a damaged file.
type find struct {
	table string
	key   []byte
	value []byte // as stored, if err is set
	err   error
}

func (d *damage) Error() string { return "damaged: " + d.text }

func damaged(format string, args ...any) error {
	return &damage{text: fmt.Sprintf(format, args...)}
}

// records are the records that were found and could not be read.
func (d *damage) records() []*RecordError {
	var errs []*RecordError
	for _, f := range d.bad {
		if f.table == attachments {
			errs = append(errs, &RecordError{Key: parseKey(f.key), Err: f.err})
		}
	}
	return errs
}

// kept says what became of the content.
func (d *damage) kept() string {
	if len(d.values)+len(d.bad) == 0 {
		return "and an empty one begun"
	}
	return fmt.Sprintf("%d values were kept, %d put into quarantine", len(d.values), len(d.bad))
}

// verify reads everything. If anything is wrong, its error is a *damage that holds
// the rest.
func (s *Store) verify() error {
	var d *damage
	err := s.view("check tables", func(t *txn) (err error) {
		// As a rule nothing is wrong, and need not be held.
		if d, err = t.check(false); err == nil && d.text != "" {
			d, err = t.check(true)
		}
		return err
	})
	if err != nil || d.text == "" {
		return err
	}
	return d
}

// check reads everything and says what is wrong, with or without the values.
func (t *txn) check(hold bool) (*damage, error) {
	d := &damage{boot: t.head.Boot}
	var wrong []string
	for _, table := range []string{attachments, files} {
		before := len(d.bad)
		sum, err := t.collect(table, d, hold)
		if err != nil {
			return nil, err
		}
		for _, f := range d.bad[before:] {
			wrong = append(wrong, f.String())
		}
		if want := t.head.Tables[table]; sum != want {
			wrong = append(wrong, fmt.Sprintf("%s: of %d values that were stored last, %d were found, not all of them the last", table, want.Count, sum.Count))
		}
	}
	if t.tx.Bucket([]byte(quarantine)) == nil {
		return nil, damaged("no bucket %s", quarantine)
	}
	d.text = strings.Join(wrong, "; ")
	return d, nil
}

func (f find) String() string {
	if f.table == attachments {
		return (&RecordError{Key: parseKey(f.key), Err: f.err}).Error()
	}
	return fmt.Sprintf("%s: %q: %v", f.table, f.key, f.err)
}

// collect adds the bad values of a table to d, and the good ones if they are to be
// held, and returns the tally of the good ones.
func (t *txn) collect(table string, d *damage, hold bool) (tally, error) {
	b := t.tx.Bucket([]byte(table))
	if b == nil {
		return tally{}, damaged("no bucket %s", table)
	}
	var sum tally
	err := b.ForEach(func(key, stored []byte) error {
		f := look(table, key, stored)
		switch {
		case f.err != nil:
			d.bad = append(d.bad, f.clone())
			return nil
		case hold:
			d.values = append(d.values, f.clone())
		}
		sum = sum.with(stored)
		return nil
	})
	return sum, err
}

// look reads one stored value. What it returns is part of the file.
func look(table string, key, stored []byte) find {
	value, err := unseal(table, key, stored)
	if err == nil && table == attachments {
		_, err = decode(key, value)
	}
	if err != nil {
		value = stored
	}
	return find{table, key, value, err}
}

// clone is f in memory of its own.
func (f find) clone() find { return find{f.table, bytes.Clone(f.key), bytes.Clone(f.value), f.err} }

// errGone says that the file to replace is not there any more.
var errGone = errors.New("replaced by another process")

// replace puts a new file with what d holds in the place of the damaged file at
// path, and returns the damaged one's new name. Whoever looks at path finds one
// of the two.
func replace(path string, d *damage) (aside string, err error) {
	f, _, err := lock(path)
	if err != nil {
		return "", fmt.Errorf("set aside %s: %w", path, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !os.SameFile(fi, d.file) {
		return "", errors.Join(errGone, err)
	}
	fresh := path + ".new"
	if err := d.write(fresh); err != nil {
		return "", err
	}
	if aside, err = linkAside(path); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	return aside, syncDir(filepath.Dir(path))
}

// linkAside gives the file at path a second name.
func linkAside(path string) (string, error) {
	base := path + ".broken-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for n := 2; ; n++ {
		if err := os.Link(path, aside); !errors.Is(err, fs.ErrExist) {
			return aside, err
		}
		aside = fmt.Sprintf("%s-%d", base, n)
	}
}

// write makes a new database of what d holds.
func (d *damage) write(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s, err := openFile(path)
	if err != nil {
		return err
	}
	err = s.update("copy what is left", func(t *txn) error {
		t.head.Boot = d.boot
		for _, f := range d.values {
			if err := t.put(f.table, f.key, f.value); err != nil {
				return err
			}
		}
		for _, f := range d.bad {
			key := append([]byte(f.table+separator), f.key...)
			if err := t.tx.Bucket([]byte(quarantine)).Put(key, f.value); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, s.Close())
}
