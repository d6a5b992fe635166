// Package netconf reads podwall's entry in a CNI network's list of plugins.
//
//	{"type": "podwall", "socket": "/run/podwall/podwalld.sock", "failurePolicy": "closed"}
//
// # Contract
//
// Parse takes what a runtime gives a plugin on its standard input: the entry as
// people wrote it (Entry) and what the runtime added. It refuses any other field
// by name, since a misspelt one would otherwise silently mean its default. The
// zero Entry is closed; Default is what an entry with no fields means.
//
// It links nothing but the standard library and CNI's types, because the plugin
// is started for each pod.
package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/conf"
)

// DefaultSocket is where podwalld listens unless told otherwise.
const DefaultSocket = "/run/podwall/podwalld.sock"

// An Entry is what people write in a conflist.
type Entry struct {
	// Type is the name of the plugin's executable.
	Type string `json:"type" jsonschema:"default=podwall"`
	// Socket is the absolute path at which podwalld listens.
	Socket string `json:"socket,omitempty" jsonschema:"default=/run/podwall/podwalld.sock,pattern=^/,maxLength=107"`
	// FailurePolicy says what becomes of a new pod while podwalld can't be reached.
	FailurePolicy FailurePolicy `json:"failurePolicy,omitempty" jsonschema:"default=closed,enum=closed,enum=open"`
	// Namespace is the namespace of pods that come without Kubernetes' arguments.
	Namespace string `json:"namespace,omitempty" jsonschema:"default=default,minLength=1,maxLength=63,pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	// RawSockets says whether pods of this network may send whole frames, from any source address, past their rules. DHCP clients and virtual machines bridged inside a pod need that.
	RawSockets RawSockets `json:"rawSockets,omitempty" jsonschema:"default=deny,enum=deny,enum=allow"`
}

// Default returns what an entry without fields means.
func Default() Entry {
	return Entry{Type: "podwall", Socket: DefaultSocket, FailurePolicy: Closed, Namespace: "default"}
}

// fields is the entry as a table.
func (e *Entry) fields() conf.Fields {
	return conf.Fields{
		"type":          {Text: func(s string) error { e.Type = s; return nil }},
		"socket":        conf.Socket(&e.Socket),
		"failurePolicy": conf.Text(&e.FailurePolicy),
		"namespace":     {Text: e.setNamespace},
		"rawSockets":    conf.Text(&e.RawSockets),
	}
}

func (e *Entry) setNamespace(s string) error {
	if !isLabel(s) {
		return fmt.Errorf("%s: want the name of a namespace: at most 63 of a-z, 0-9 and '-', which stands neither first nor last", conf.Quote(s))
	}
	e.Namespace = s
	return nil
}

// isLabel reports whether s is a label of RFC 1123, in lower case.
func isLabel(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	return 0 < len(s) && len(s) <= 63 && strings.Trim(s, "-") == s &&
		strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune(letters+"-", r) }) < 0
}

// A FailurePolicy says what becomes of a new pod while podwalld can't be reached.
type FailurePolicy uint8

const (
	Closed FailurePolicy = iota // the zero FailurePolicy: the pod does not start
	Open                        // the pod starts without a firewall, with a warning
)

var policyNames = []string{Closed: "closed", Open: "open"}

// String is "closed" or "open".
func (p FailurePolicy) String() string { return policyNames[p] }

// MarshalText writes "closed" or "open".
func (p FailurePolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *FailurePolicy) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, policyNames...)
	if err == nil {
		*p = FailurePolicy(i)
	}
	return err
}

// RawSockets says whether a pod may send whole frames, past its rules.
type RawSockets uint8

const (
	RawDeny  RawSockets = iota // the zero RawSockets: only what the IP stack sends, from the pod's own addresses
	RawAllow                   // anything
)

var rawNames = []string{RawDeny: "deny", RawAllow: "allow"}

// String is "deny" or "allow".
func (r RawSockets) String() string { return rawNames[r] }

// MarshalText writes "deny" or "allow".
func (r RawSockets) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *RawSockets) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, rawNames...)
	if err == nil {
		*r = RawSockets(i)
	}
	return err
}

// A Conf is a plugin's standard input: the entry and what the runtime adds.
type Conf struct {
	Entry
	CNIVersion string
	Network    string          // the network's name
	PrevResult json.RawMessage // what the plugin before this one returned; nil if there is none
	// Valid are the attachments that a GC says still exist. It is nil unless the
	// runtime named them, and then not nil even if none exist.
	Valid []types.GCAttachment
}

// Err returns cause as an error about one field of c.
func (c *Conf) Err(field string, cause error) error {
	return &conf.Error{Object: fmt.Sprintf("network %q", c.Network), Field: field, Err: cause}
}

// The keys that runtimes add. Those whose content matters are in Parse.
const (
	keyPrefix = "cni.dev/"
	keyValid  = "cni.dev/valid-attachments"
)

// runtimeOwn reports whether runtimes add a field of this name.
func runtimeOwn(name string) bool {
	switch name {
	case "cniVersion", "name", "prevResult", "runtimeConfig", "args":
		return true
	}
	return strings.HasPrefix(name, keyPrefix)
}

// Parse reads a plugin's standard input. Its errors are *conf.Errors, joined if
// there are several. With them it returns what it could read, for a DEL, which
// must do what it can: each wrong field has its default.
func Parse(stdin []byte) (Conf, error) {
	c := Conf{Entry: Default()}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &raw); err != nil {
		return c, c.Err("", fmt.Errorf("configuration: %w", err))
	}
	// The network's name first: the other fields' errors name it.
	errs := []error{c.decode(raw, "name", &c.Network)}
	if c.Network == "" && errs[0] == nil {
		errs[0] = c.Err("name", errors.New("want the network's name"))
	}
	errs = append(errs, c.decode(raw, "cniVersion", &c.CNIVersion), c.decode(raw, keyValid, &c.Valid))
	if _, named := raw[keyValid]; named && c.Valid == nil {
		c.Valid = []types.GCAttachment{} // libcni writes null where none exist
	}
	if prev, ok := raw["prevResult"]; ok && string(prev) != "null" {
		c.PrevResult = prev
	}
	values := map[string]conf.Value{}
	for name, v := range raw {
		if !runtimeOwn(name) {
			values[name] = value(v)
		}
	}
	errs = append(errs, c.fields().Set(fmt.Sprintf("network %q", c.Network), values))
	return c, errors.Join(errs...)
}

// decode reads one field that a runtime added into v. It may be missing.
func (c *Conf) decode(raw map[string]json.RawMessage, name string, v any) error {
	b, ok := raw[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return c.Err(name, err)
	}
	return nil
}

func value(raw json.RawMessage) conf.Value {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return conf.Value{Text: string(raw)}
	}
	return conf.Value{Text: s, String: true}
}
