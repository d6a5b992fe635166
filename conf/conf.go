// Package conf reads the fields that people write in configuration, strictly.
//
// A configuration is a table of Fields: the name of each and the function that
// takes its text, or its list. What the file's format is, JSON or YAML, is its reader's
// affair:
//
//	conflist entry ──netconf.Parse─────▶ map[string]Value ─┐
//	                                                       ├─ Fields.Set ──▶ a struct, or Errors
//	podwalld.yaml  ──daemonconf.Parse──▶ map[string]Value ─┘
//
// # Contract
//
// No field is ignored and no value is guessed: a name that is not in the table
// and a value that is not a string, or a list of strings or a whole number where
// that is wanted, are errors, and all of them are reported at once. Each is an *Error, which names the configuration and the field.
package conf

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// An Error says which field of which configuration can't be honoured.
type Error struct {
	Object string // what holds the field: `network "k8s"`, or a file's path
	Field  string // its name as written; empty if Err is about the whole
	Err    error
}

// Error is "object: field name: cause".
func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %v", e.Object, e.Err)
	}
	return fmt.Sprintf("%s: field %s: %v", e.Object, e.Field, e.Err)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrUnknown is the cause of an Error about a field that does not exist.
var ErrUnknown = errors.New("unknown field")

// A Value is what stands in a field.
type Value struct {
	Text   string   // the string, or any other value as written
	String bool     // Text is a string's
	Number bool     // Text is a whole number's
	List   []string // not nil if the value is a list of strings: these
}

// A Field parses what stands in it and keeps the result. One of its functions is
// not nil.
type Field struct {
	Text   func(text string) error
	List   func(elements []string) error
	Number func(n int) error
}

// Fields are those that a configuration may have, by name.
type Fields map[string]Field

// Set gives each value to its field. Every value that has no field or that its
// field refuses is an *Error in the joined result, in the order of their names.
func (f Fields) Set(object string, values map[string]Value) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := f.set(name, values[name]); err != nil {
			errs = append(errs, &Error{Object: object, Field: name, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (f Fields) set(name string, v Value) error {
	field, ok := f[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(f)), ", ")
		return fmt.Errorf("%w with value %s: want one of %s", ErrUnknown, Quote(v.Text), known)
	}
	switch {
	case field.Number != nil && v.Number:
		return field.number(v.Text)
	case field.Number != nil:
		return fmt.Errorf("%s: want a whole number", Quote(v.Text))
	case field.List == nil && v.String:
		return field.Text(v.Text)
	case field.List == nil:
		return fmt.Errorf("%s: want a string", Quote(v.Text))
	case v.List == nil:
		return fmt.Errorf("%s: want a list of strings", Quote(v.Text))
	}
	return field.List(v.List)
}

// SetFlag gives f what stands after a flag, where the elements of a list are
// separated by commas.
func (f Field) SetFlag(text string) error {
	switch {
	case f.Number != nil:
		return f.number(text)
	case f.List == nil:
		return f.Text(text)
	case text == "":
		return f.List(nil)
	}
	return f.List(strings.Split(text, ","))
}

func (f Field) number(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%s: want a whole number", Quote(text))
	}
	return f.Number(n)
}

// Number returns a field that holds a whole number from least to most, in *dst.
func Number(dst *int, least, most int) Field {
	return Field{Number: func(n int) error {
		if n < least || n > most {
			return fmt.Errorf("%d: want %d to %d", n, least, most)
		}
		*dst = n
		return nil
	}}
}

// Quote is text in quotes, cut where a person has seen enough of it.
func Quote(text string) string {
	const enough = 64
	if len(text) > enough {
		return fmt.Sprintf("%q…", text[:enough])
	}
	return fmt.Sprintf("%q", text)
}

// Text returns a field that v reads.
func Text(v encoding.TextUnmarshaler) Field {
	return Field{Text: func(s string) error { return v.UnmarshalText([]byte(s)) }}
}

// List returns a field that holds a list of strings, each of which check admits,
// in *dst. An empty list is nil there.
func List(dst *[]string, check func(element string) error) Field {
	return Field{List: func(elements []string) error {
		for _, e := range elements {
			if err := check(e); err != nil {
				return err
			}
		}
		*dst = append([]string(nil), elements...)
		return nil
	}}
}

// Path returns a field that holds an absolute path, in *dst.
func Path(dst *string) Field {
	return Field{Text: func(s string) error {
		if !filepath.IsAbs(s) {
			return fmt.Errorf("%s: want an absolute path", Quote(s))
		}
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%s: a path holds no zero byte", Quote(s))
		}
		*dst = filepath.Clean(s)
		return nil
	}}
}

// Socket returns a field that holds the path of a unix socket, in *dst.
func Socket(dst *string) Field {
	// The kernel's sockaddr_un holds 108 bytes, the last of them zero.
	const longest = 107
	return Field{Text: func(s string) error {
		if len(s) > longest {
			return fmt.Errorf("%s: a socket's path has at most %d bytes, this one %d", Quote(s), longest, len(s))
		}
		return Path(dst).Text(s)
	}}
}

// OneOf returns the index in names of the one that text is, for the
// UnmarshalText of types that have a name for each value.
func OneOf(text []byte, names ...string) (int, error) {
	i := slices.Index(names, string(text))
	if i < 0 {
		last := len(names) - 1
		return 0, fmt.Errorf("%s: want %s or %s", Quote(string(text)), strings.Join(names[:last], ", "), names[last])
	}
	return i, nil
}
