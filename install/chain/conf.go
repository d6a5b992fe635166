package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// FromConf returns a conflist of the network that the text configures with a
// single plugin: what libcni makes of it when a runtime loads such a file. The
// plugin's own text is indented anew and otherwise unchanged.
func FromConf(text []byte) ([]byte, error) {
	conf, err := libcni.NetworkPluginConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	if conf.Network.Type == Plugin {
		return nil, ErrAlone
	}
	if conf.Network.Name == "" {
		return nil, errors.New("field name: missing")
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	if v := conf.Network.CNIVersion; v != "" {
		fmt.Fprintf(&b, "  \"cniVersion\": %s,\n", quote(v))
	}
	fmt.Fprintf(&b, "  \"name\": %s,\n  \"plugins\": [\n    ", quote(conf.Network.Name))
	if err := json.Indent(&b, bytes.TrimSpace(text), "    ", "  "); err != nil {
		return nil, err
	}
	b.WriteString("\n  ]\n}\n")
	if _, err := Parse(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// multus are the types under which Multus runs: alone, and as the client of its
// daemon.
var multus = []string{"multus", "multus-shim"}

// A Meta is the configuration of a meta plugin, which makes no interface itself
// but calls the plugins of other networks.
type Meta struct {
	Name    string // the network's
	Version string // its cniVersion
	Type    string // the plugin's
	// Cluster is the network for the pod's first interface, where the text only
	// names it: a file, a directory, a network's name, or an object of Kubernetes.
	Cluster string
	// Delegates are the networks whose configuration the text holds.
	Delegates []*List

	text []byte
	at   []span
}

// ParseMeta reads the configuration of a meta plugin, single or as the only
// plugin of a list, and returns nil for any other. A delegate that is not a list
// is an error that matches ErrNoPlugins.
func ParseMeta(text []byte) (*Meta, error) {
	object := span{0, len(text)}
	l, err := Parse(text)
	if err == nil && len(l.plugins) == 1 {
		object = l.plugins[0]
	}
	if !slices.Contains(multus, TypeOf(text[object.start:object.end])) {
		return nil, nil
	}
	conf, err := libcni.NetworkPluginConfFromBytes(text[object.start:object.end])
	if err != nil {
		return nil, err
	}
	m := &Meta{Name: conf.Network.Name, Version: conf.Network.CNIVersion, Type: conf.Network.Type, text: text}
	if l != nil {
		m.Name, m.Version = l.Name, l.Version
	}
	if at, ok := field(conf.Bytes, "clusterNetwork"); ok {
		_ = json.Unmarshal(conf.Bytes[at.start:at.end], &m.Cluster) // what is no string names no network
	}
	at, ok := field(conf.Bytes, "delegates")
	if !ok {
		return m, nil
	}
	m.at = elements(text, span{object.start + at.start, object.start + at.end})
	var errs []error
	for i, at := range m.at {
		d, err := Parse(text[at.start:at.end])
		if err != nil {
			errs = append(errs, fmt.Errorf("field delegates[%d]: %w", i, err))
		}
		m.Delegates = append(m.Delegates, d)
	}
	return m, errors.Join(errs...)
}

// With returns the text with podwall as the last plugin of every delegate.
func (m *Meta) With(entry []byte) ([]byte, error) {
	return m.edit(func(l *List) ([]byte, error) { return l.With(entry) })
}

// Without returns the text without podwall in any delegate.
func (m *Meta) Without() ([]byte, error) { return m.edit((*List).Without) }

func (m *Meta) edit(fn func(*List) ([]byte, error)) ([]byte, error) {
	var out []byte
	from := 0
	for i, d := range m.Delegates {
		if d == nil {
			continue // ParseMeta said why
		}
		edited, err := fn(d)
		if err != nil {
			return nil, fmt.Errorf("field delegates[%d]: %w", i, err)
		}
		out = append(append(out, m.text[from:m.at[i].start]...), edited...)
		from = m.at[i].end
	}
	return append(out, m.text[from:]...), nil
}

// TypeOf returns the type of a single plugin; empty if text is none.
func TypeOf(text []byte) string {
	conf, err := libcni.NetworkPluginConfFromBytes(text)
	if err != nil {
		return ""
	}
	return conf.Network.Type
}
