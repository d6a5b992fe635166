package chain

import (
	"bytes"
	"encoding/json"
)

// field returns where the value of a field of an object stands. Of fields with
// the same name the last counts, as for encoding/json. The text is valid JSON.
func field(object []byte, name string) (at span, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return at, false
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return at, false
		}
		value := next(dec)
		if key == name {
			at, ok = value, true
		}
	}
	return at, ok
}

// elements returns where the elements of the list at the given place stand.
func elements(text []byte, list span) []span {
	dec := json.NewDecoder(bytes.NewReader(text[list.start:list.end]))
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return nil
	}
	var all []span
	for dec.More() {
		at := next(dec)
		all = append(all, span{list.start + at.start, list.start + at.end})
	}
	return all
}

// next reads the decoder's next value and returns where it stands.
func next(dec *json.Decoder) span {
	var raw json.RawMessage
	if dec.Decode(&raw) != nil {
		return span{} // does not happen in valid JSON
	}
	end := int(dec.InputOffset())
	return span{end - len(raw), end}
}
