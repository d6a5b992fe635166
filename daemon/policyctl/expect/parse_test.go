package expect

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/podwall/podwall/conf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestListsAreEveryPair(t *testing.T) {
	got, err := Parse("f", []byte(`[{from: [a/b, 192.0.2.1], to: "fd00::1", ports: [80, 81], protocol: UDP, expect: deny}]`))
	if err != nil {
		t.Fatal(err)
	}
	flow := func(from string, port uint16) api.ExplainRequest {
		return api.ExplainRequest{From: from, To: "fd00::1", Port: port, Protocol: ruleset.UDP}
	}
	want := []api.ExplainRequest{flow("a/b", 80), flow("a/b", 81), flow("192.0.2.1", 80), flow("192.0.2.1", 81)}
	if diff := cmp.Diff(want, got[0].Flows()); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	const rest = "to: a/c\n  port: 80\n  expect: deny\n"
	tests := []struct{ name, in, want string }{
		{"an empty file", "", "f: nothing is expected: want a list of expectations"},
		{"a list of nothing", "[]", "f: nothing is expected: want a list of expectations"},
		{"a mapping", "from: a/b", "f: line 1: want a list of expectations"},
		{"an entry that is a word", "- deny", "f: entry 1, line 1: want the fields of an expectation"},
		{"two documents", "- {}\n---\n- {}", "f: more than one YAML document: want one"},
		{"an unknown field", "- form: a/b\n  from: a/b\n  " + rest,
			"f: entry 1, line 1: field form: unknown field: want one of because, expect, from, name, port, ports, protocol, to"},
		{"a field twice", "- from: a/b\n  from: a/d\n  " + rest, "f: entry 1, line 1: field from: stands there twice"},
		{"a merged field", "- <<: {from: a/b}\n  from: a/b\n  " + rest,
			"f: entry 1, line 1: field <<: unknown field: want one of because, expect, from, name, port, ports, protocol, to"},
		{"the entry's name helps to find it", "- name: x\n  from: b\n  " + rest, `f: entry 1 "x", line 1: field from: end "b": want namespace/pod, an address, or svc/namespace/name`},
		{"a service that opens", "- from: svc/a/b\n  " + rest, "f: entry 1, line 1: field from: svc/a/b: a service opens no connections, name one of its pods"},
		{"nobody", "- from: []\n  " + rest, "f: entry 1, line 1: field from: want at least one end"},
		{"somebody twice", "- from: [a/b, a/b]\n  " + rest, "f: entry 1, line 1: field from: a/b stands there twice"},
		{"no from", "- " + rest, "f: entry 1, line 1: field from: is missing"},
		{"a port's name", "- {from: a/b, to: a/c, port: http, expect: deny}", `f: entry 1, line 1: field port: "http": want a number of 1 to 65535`},
		{"a port in quotes", "- {from: a/b, to: a/c, port: '80', expect: deny}", `f: entry 1, line 1: field port: "80": want a number of 1 to 65535`},
		{"an octal port", "- {from: a/b, to: a/c, port: 010, expect: deny}", `f: entry 1, line 1: field port: "010": want a number of 1 to 65535`},
		{"port 0", "- {from: a/b, to: a/c, port: 0, expect: deny}", `f: entry 1, line 1: field port: "0": want a number of 1 to 65535`},
		{"port 65536", "- {from: a/b, to: a/c, ports: [65536], expect: deny}", `f: entry 1, line 1: field ports: "65536": want a number of 1 to 65535`},
		{"port and ports", "- {from: a/b, to: a/c, port: 80, ports: [81], expect: deny}", "f: entry 1, line 1: field port: want either port or ports"},
		{"neither", "- {from: a/b, to: a/c, expect: deny}", "f: entry 1, line 1: field port: want either port or ports"},
		{"no ports", "- {from: a/b, to: a/c, ports: [], expect: deny}", "f: entry 1, line 1: field ports: want a list of numbers"},
		{"a protocol without ports", "- {from: a/b, to: a/c, port: 80, protocol: any, expect: deny}", `f: entry 1, line 1: field protocol: "any": want TCP, UDP or SCTP`},
		{"another verdict", "- {from: a/b, to: a/c, port: 80, expect: Deny}", `f: entry 1, line 1: field expect: "Deny": want allow or deny`},
		{"no verdict", "- {from: a/b, to: a/c, port: 80}", "f: entry 1, line 1: field expect: is missing"},
		{"a nameless policy", "- {from: a/b, to: a/c, port: 80, expect: deny, because: }", `f: entry 1, line 1: field because: "": want a text`},
		{"all that is wrong is said", "- {from: a/b, to: a/c, port: 80}\n- {from: a/b, to: a/c, port: 80, expect: deny, name: [x]}",
			"f: entry 1, line 1: field expect: is missing\nf: entry 2, line 2: field name: a list: want a text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse("f", []byte(tt.in))
			if err == nil || err.Error() != tt.want || got != nil {
				t.Errorf("Parse(%q) = %v, %v; want %s", tt.in, got, err, tt.want)
			}
			var ce *conf.Error
			if err != nil && !errors.As(err, &ce) {
				t.Errorf("%v is no conf.Error", err)
			}
		})
	}
}

func TestListsMultiplyToALimit(t *testing.T) {
	var ports []string
	for p := range maxFlows/2 + 1 {
		ports = append(ports, string(mustJSON(t, p+1)))
	}
	in := "- {from: [a/b, a/c], to: a/d, expect: deny, ports: [" + strings.Join(ports, ",") + "]}"
	if _, err := Parse("f", []byte(in)); err == nil || err.Error() != "f: entry 1, line 1: is about more than 10000 flows" {
		t.Errorf("too many flows: %v", err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shared(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "conf", path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSampleIsRead(t *testing.T) {
	list, err := Parse("expectations.yaml", shared(t, "samples/expectations.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	flows, used := 0, map[string]bool{}
	for _, e := range list {
		flows += len(e.Flows())
	}
	if len(list) != 3 || flows != 8 {
		t.Errorf("the sample has %d entries about %d flows, want 3 about 8", len(list), flows)
	}
	var entries []map[string]any
	if err := yaml.Unmarshal(shared(t, "samples/expectations.yaml"), &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for name := range e {
			used[name] = true
		}
	}
	for name := range new(Expectation).fields() {
		if !used[name] {
			t.Errorf("the sample doesn't show %s", name)
		}
	}
}

// What editors are told to accept is what Parse accepts.
func TestSchemaIsOfTheParser(t *testing.T) {
	var s struct {
		Items struct {
			Properties map[string]struct {
				Enum        []any
				Default     any
				Description string
			}
			Required             []string
			AdditionalProperties *bool
		}
	}
	if err := json.Unmarshal(shared(t, "schema/expectations.schema.json"), &s); err != nil {
		t.Fatal(err)
	}
	with := func(name string, v any) error {
		entry := map[string]any{"from": "a/b", "to": "a/c", "port": 80, "expect": "deny", name: v}
		if v == nil {
			delete(entry, name)
		}
		_, err := Parse("f", mustJSON(t, []any{entry}))
		return err
	}
	fields := new(Expectation).fields()
	for name, p := range s.Items.Properties {
		if fields[name] == nil || p.Description == "" {
			t.Errorf("the schema's %s is no field, or is not described", name)
		}
		for _, v := range p.Enum {
			if err := with(name, v); err != nil {
				t.Errorf("%s: %v: %v", name, v, err)
			}
		}
		if required := slices.Contains(s.Items.Required, name); name != "port" && (with(name, nil) != nil) != required {
			t.Errorf("without %s: %v; the schema says required: %t", name, with(name, nil), required)
		}
		if with(name, map[string]any{}) == nil {
			t.Errorf("%s may be anything", name)
		}
		delete(fields, name)
	}
	if len(fields) > 0 || s.Items.AdditionalProperties == nil || *s.Items.AdditionalProperties {
		t.Errorf("the schema lacks %v, or admits unknown fields", fields)
	}
	if got := s.Items.Properties["protocol"].Default; got != ruleset.TCP.String() {
		t.Errorf("the default protocol is %v, want TCP", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse("f", b)
		if (err == nil) == (len(list) == 0) {
			t.Errorf("Parse(%q) = %v, %v", b, list, err)
		}
		for _, e := range list {
			flows := e.Flows()
			if len(flows) == 0 || len(flows) > maxFlows || (e.Expect != Allow && e.Expect != Deny) {
				t.Errorf("Parse(%q) expects %q of %d flows", b, e.Expect, len(flows))
			}
			for _, flow := range flows {
				if flow.Port == 0 || !flow.Protocol.HasPorts() {
					t.Errorf("Parse(%q) is about %+v", b, flow)
				}
			}
		}
	})
}
