// Package conf reads the fields that people write in configuration, strictly.
//
// A configuration is a table of Fields: the name of each and the function that
// takes its text. What the file's format is, JSON or YAML, is its reader's
// affair:
//
//	conflist entry ──netconf.Parse─────▶ map[string]Value ─┐
//	                                                       ├─ Fields.Set ──▶ a struct, or Errors
//	podwalld.yaml  ──daemonconf.Parse──▶ map[string]Value ─┘
//
// # Contract
//
// No field is ignored and no value is guessed: a name that is not in the table
// and a value that is not a string are errors, and all of them are reported at
// once. Each is an *Error, which names the configuration and the field.
package conf

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
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
	Text   string // the string, or any other value as written
	String bool   // Text is a string's
}

// Fields are those that a configuration may have: by name, what parses the text
// and keeps the result.
type Fields map[string]func(text string) error

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
	set, ok := f[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(f)), ", ")
		return fmt.Errorf("%w with value %s: want one of %s", ErrUnknown, Quote(v.Text), known)
	}
	if !v.String {
		return fmt.Errorf("%s: want a string", Quote(v.Text))
	}
	return set(v.Text)
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
func Text(v encoding.TextUnmarshaler) func(string) error {
	return func(s string) error { return v.UnmarshalText([]byte(s)) }
}

// Path returns a field that holds an absolute path, in *dst.
func Path(dst *string) func(string) error {
	return func(s string) error {
		if !filepath.IsAbs(s) {
			return fmt.Errorf("%s: want an absolute path", Quote(s))
		}
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%s: a path holds no zero byte", Quote(s))
		}
		*dst = filepath.Clean(s)
		return nil
	}
}

// Socket returns a field that holds the path of a unix socket, in *dst.
func Socket(dst *string) func(string) error {
	// The kernel's sockaddr_un holds 108 bytes, the last of them zero.
	const longest = 107
	return func(s string) error {
		if len(s) > longest {
			return fmt.Errorf("%s: a socket's path has at most %d bytes, this one %d", Quote(s), longest, len(s))
		}
		return Path(dst)(s)
	}
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
