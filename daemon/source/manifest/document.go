package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"go.yaml.in/yaml/v2"
	kjson "sigs.k8s.io/json"
)

// A document is one document of a file, as JSON.
type document struct {
	number int // from 1
	json   []byte
}

// documents yields the documents of a YAML file that hold anything, and last an
// error if the file is not well-formed to its end. A key that is there twice is
// such an error: nobody knows which one its author meant.
func documents(data []byte) iter.Seq2[document, error] {
	return func(yield func(document, error) bool) {
		dec := yaml.NewDecoder(bytes.NewReader(data))
		dec.SetStrict(true)
		for n := 1; ; n++ {
			j, err := next(dec)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && string(j) == "null" {
				continue
			}
			if !yield(document{n, j}, err) || err != nil {
				return
			}
		}
	}
}

// next reads one document. The decoder's panics, of which none is known, are
// errors: whoever can write a file here must not be able to end the daemon.
func next(dec *yaml.Decoder) (j []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if v, err = jsonable(v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// jsonable returns v, as the YAML decoder gives it, with keys that are strings.
func jsonable(v any) (any, error) {
	switch v := v.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			name, err := keyName(k)
			if err != nil {
				return nil, err
			}
			if _, twice := m[name]; twice {
				return nil, fmt.Errorf("key %q is there twice", name)
			}
			if m[name], err = jsonable(e); err != nil {
				return nil, err
			}
		}
		return m, nil
	case []any:
		for i := range v {
			var err error
			if v[i], err = jsonable(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func keyName(k any) (string, error) {
	switch k := k.(type) {
	case string:
		return k, nil
	case bool:
		return strconv.FormatBool(k), nil
	case int, int64, uint64:
		return fmt.Sprint(k), nil
	}
	return "", fmt.Errorf("key %v: want a string", k)
}

// jsonDocuments is documents for a JSON file, which may hold several objects
// one after the other.
func jsonDocuments(data []byte) iter.Seq2[document, error] {
	return func(yield func(document, error) bool) {
		dec := json.NewDecoder(bytes.NewReader(data))
		for n := 1; ; n++ {
			start := int(dec.InputOffset())
			var raw json.RawMessage
			err := dec.Decode(&raw)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				err = onlyOnce(raw)
			}
			if err != nil {
				err = fmt.Errorf("json: line %d: %w", line(data, start, err), err)
			}
			if !yield(document{n, raw}, err) || err != nil {
				return
			}
		}
	}
}

// onlyOnce refuses a key that is there twice.
func onlyOnce(raw []byte) error {
	var v any
	twice, err := kjson.UnmarshalStrict(raw, &v, kjson.DisallowDuplicateFields)
	return errors.Join(append(twice, err)...)
}

// line is where err is in data: its own place if it has one, the document's
// start if not, the end if the file ends too early.
func line(data []byte, start int, err error) int {
	at := start
	var se *json.SyntaxError
	switch {
	case errors.As(err, &se):
		at = int(se.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		at = len(data)
	default:
		at += len(data[start:]) - len(bytes.TrimLeft(data[start:], " \t\r\n"))
	}
	return 1 + bytes.Count(data[:min(at, len(data))], []byte("\n"))
}
