package policy

import (
	"encoding/binary"
	"slices"
	"unique"
)

// tags are Labels as a World keeps them: all keys and values in one string, each
// behind its length, sorted by key. Equal Labels are one string in memory, since
// the pods of a Deployment are many and their labels are the same.
type tags struct{ text unique.Handle[string] }

// tagsOf is labels as tags.
func tagsOf(labels Labels) tags {
	keys, b := make([]string, 0, 16), make([]byte, 0, 512) // on the stack
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = appendText(appendText(b, k), labels[k])
	}
	return tags{unique.Make(string(b))}
}

// all yields the labels, sorted by key.
func (t tags) all(yield func(key, value string) bool) {
	for rest := t.text.Value(); rest != ""; {
		var key, value string
		key, rest = cutText(rest)
		value, rest = cutText(rest)
		if !yield(key, value) {
			return
		}
	}
}

func (t tags) get(key string) (value string, ok bool) {
	for k, v := range t.all {
		if k == key {
			return v, true
		}
	}
	return "", false
}

// labels are the Labels that t was made of; nil if they were none.
func (t tags) labels() Labels {
	var labels Labels
	for k, v := range t.all {
		if labels == nil {
			labels = Labels{}
		}
		labels[k] = v
	}
	return labels
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// cutText returns the first text of those that appendText has written to s.
func cutText(s string) (text, rest string) {
	n, shift := 0, 0
	for i := range len(s) {
		n |= int(s[i]&0x7f) << shift
		if shift += 7; s[i] < 0x80 {
			return s[i+1 : i+1+n], s[i+1+n:]
		}
	}
	return "", ""
}
