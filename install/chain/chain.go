// Package chain edits the list of plugins in the text of a CNI network's
// configuration.
//
// It works on the text, not on a tree that is printed again: an edit puts in or
// takes out the bytes of one entry, and every other byte stays.
//
//	"plugins": [                        "plugins": [
//	  {"type": "bridge", …},              {"type": "bridge", …},
//	  {"type": "portmap", …}   ──With──▶   {"type": "portmap", …},
//	]                         ◀─Without─   {"type": "podwall"}
//	                                    ]
//
// # Contract
//
// Parse accepts what libcni accepts, and libcni accepts what the edits return:
// libcni itself is asked what a text means. With leaves podwall once, as the last
// plugin, and all other plugins as they were and in their order; applied again it
// changes nothing. Without takes out every podwall, and after With it gives back,
// byte for byte, a text that had none. All functions are pure.
package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// Plugin is the type of podwall's entry.
const Plugin = "podwall"

var (
	// ErrNoPlugins says that a configuration has no list of plugins of its own:
	// libcni takes them from the network's drop-in directory.
	ErrNoPlugins = errors.New("no field plugins")
	// ErrAlone says that a list has no plugin but podwall, which needs another
	// before it, one that makes the pod's interface.
	ErrAlone = errors.New("field plugins: no plugin but podwall")
)

// A List is the configuration of a network that has a list of plugins.
type List struct {
	Name    string   // the network's
	Version string   // the cniVersion that libcni takes, of several the highest
	Types   []string // of the plugins, in their order
	Inlined bool     // loadOnlyInlinedPlugins: the drop-in directory does not count

	text    []byte
	plugins []span
}

// A span is where a value stands in a text.
type span struct{ start, end int }

// Parse reads a conflist.
func Parse(text []byte) (*List, error) {
	conf, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	l := &List{Name: conf.Name, Version: conf.CNIVersion, Inlined: conf.LoadOnlyInlinedPlugins, text: text}
	for _, p := range conf.Plugins {
		l.Types = append(l.Types, p.Network.Type)
	}
	at, ok := field(text, "plugins")
	if !ok {
		return l, ErrNoPlugins
	}
	l.plugins = elements(text, at)
	if len(l.plugins) != len(l.Types) {
		return nil, fmt.Errorf("field plugins: libcni reads %d plugins where %d stand", len(l.Types), len(l.plugins))
	}
	return l, nil
}

// Has reports whether podwall is one of the plugins.
func (l *List) Has() bool { return slices.Contains(l.Types, Plugin) }

// Is reports whether podwall is one of the plugins exactly once, as the last and
// with this entry, however it is formatted.
func (l *List) Is(entry []byte) bool {
	last := len(l.Types) - 1
	if last < 1 || slices.Index(l.Types, Plugin) != last {
		return false
	}
	var got, want any
	at := l.plugins[last]
	return json.Unmarshal(l.text[at.start:at.end], &got) == nil && json.Unmarshal(entry, &want) == nil && reflect.DeepEqual(got, want)
}

// Without returns the text without podwall.
func (l *List) Without() ([]byte, error) {
	var out []byte
	from := 0 // what comes before it is in out or was taken out
	kept := 0 // plugins that are not podwall, so far
	for i, at := range l.plugins {
		switch {
		case l.Types[i] != Plugin:
			kept++
		case kept > 0: // with the comma before it
			out = append(out, l.text[from:l.plugins[i-1].end]...)
			from = at.end
		case i+1 < len(l.plugins): // with the comma after it
			out = append(out, l.text[from:at.start]...)
			from = l.plugins[i+1].start
		}
	}
	if kept == 0 {
		return nil, ErrAlone
	}
	return append(out, l.text[from:]...), nil
}

// With returns the text with podwall's entry, a JSON object, as the last plugin
// and nowhere else. The entry goes on a line of its own where the plugin before
// it begins one.
func (l *List) With(entry []byte) ([]byte, error) {
	if l.Is(entry) {
		return l.text, nil
	}
	text, err := l.Without()
	if err != nil {
		return nil, err
	}
	at, _ := field(text, "plugins")
	plugins := elements(text, at)
	last := plugins[len(plugins)-1]
	before := text[:last.start]
	space := before[len(bytes.TrimRight(before, " \t\r\n")):]
	switch {
	case bytes.Equal(compact(text), bytes.TrimSpace(text)):
		entry = compact(entry)
	case len(space) == 0:
		space = []byte(" ")
	}
	return slices.Concat(text[:last.end], []byte(","), space, entry, text[last.end:]), nil
}

// WithVersion returns the text with another cniVersion, which is put first where
// there is none. A field cniVersions stays: libcni takes the highest of all.
func (l *List) WithVersion(version string) []byte {
	quoted := quote(version)
	if at, ok := field(l.text, "cniVersion"); ok {
		return slices.Concat(l.text[:at.start], quoted, l.text[at.end:])
	}
	brace := bytes.IndexByte(l.text, '{') + 1
	rest := l.text[brace:]
	space := rest[:len(rest)-len(bytes.TrimLeft(rest, " \t\r\n"))]
	return slices.Concat(l.text[:brace], space, []byte(`"cniVersion": `), quoted, []byte(","), rest)
}

// compact is JSON without the white space.
func compact(text []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return text
	}
	return b.Bytes()
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return b
}
