package conf_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/podwall/podwall/conf"
	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/conf/netconf"
)

var update = flag.Bool("update", false, "write the schemas anew")

// A format is one kind of configuration: its type, and its parser as a function
// of its fields.
type format struct {
	file, title string
	dir         string // where the type and its comments are
	value       any
	parse       func(fields map[string]any) (any, error)
}

var formats = []format{
	{"plugin.schema.json", "podwall's entry in the plugins of a CNI network", "netconf", netconf.Entry{}, parseEntry},
	{"podwalld.schema.json", "podwalld's configuration file", "daemonconf", daemonconf.Config{}, parseConfig},
}

func parseEntry(fields map[string]any) (any, error) {
	in := map[string]any{"name": "k8s"}
	for k, v := range fields {
		in[k] = v
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	c, err := netconf.Parse(b)
	return c.Entry, err
}

func parseConfig(fields map[string]any) (any, error) {
	b, err := json.Marshal(fields) // which is YAML too
	if err != nil {
		return nil, err
	}
	return daemonconf.Parse("podwalld.yaml", b)
}

// schema is f's, made from its type: names and limits from the tags, descriptions
// from the comments.
func (f format) schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	r := jsonschema.Reflector{DoNotReference: true, Anonymous: true, Mapper: asText}
	if err := r.AddGoComments("github.com/podwall/podwall/conf", "./"+f.dir); err != nil {
		t.Fatal(err)
	}
	s := r.Reflect(f.value)
	s.Title = f.title
	s.Description = ""
	return s
}

// asText is the schema of the types that are written as text, whatever they are
// in memory.
func asText(t reflect.Type) *jsonschema.Schema {
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

func TestSchemasAreOfTheTypes(t *testing.T) {
	for _, f := range formats {
		t.Run(f.file, func(t *testing.T) {
			var want bytes.Buffer
			e := json.NewEncoder(&want)
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			if err := e.Encode(f.schema(t)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("schema", f.file)
			if *update {
				if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%s is not of its type any more; go test ./conf -update writes\n%s", path, want.Bytes())
			}
		})
	}
}

// What a schema says and what the parser does are the same.
func TestSchemasAreOfTheParsers(t *testing.T) {
	for _, f := range formats {
		t.Run(f.file, func(t *testing.T) {
			zero, err := f.parse(nil)
			if err != nil {
				t.Fatal(err)
			}
			s := f.schema(t)
			if s.Properties.Len() == 0 {
				t.Fatal("no properties")
			}
			for p := s.Properties.Oldest(); p != nil; p = p.Next() {
				f.checkProperty(t, p.Key, p.Value, zero)
			}
			if _, err := f.parse(map[string]any{"unheardOf": "x"}); !errors.Is(err, conf.ErrUnknown) {
				t.Errorf("a field that is in no schema: %v", err)
			}
		})
	}
}

// checkProperty compares what the schema and the parser say about one field. zero
// is what a configuration without fields is read as.
func (f format) checkProperty(t *testing.T, name string, p *jsonschema.Schema, zero any) {
	t.Helper()
	list := p.Type == "array"
	if (p.Type != "string" && p.Type != "integer" && (!list || p.Items.Type != "string")) || p.Description == "" {
		t.Errorf("%s is a %q, described %q; want a described string, whole number, or list of strings", name, p.Type, p.Description)
	}
	if d := p.Default; d != nil {
		if got, err := f.parse(map[string]any{name: d}); err != nil || !reflect.DeepEqual(got, zero) {
			t.Errorf("with its default, %s: %v, the result is %+v, %v; want %+v", name, d, got, err, zero)
		}
	}
	good, bad := p.Enum, any("\x00 no value of anything")
	if list {
		bad = []any{bad}
		for _, v := range p.Items.Enum {
			good = append(good, []any{v})
		}
	}
	for _, v := range good {
		if _, err := f.parse(map[string]any{name: v}); err != nil {
			t.Errorf("%s: %v: %v", name, v, err)
		}
	}
	if _, err := f.parse(map[string]any{name: bad}); (err == nil) != (name == "type") {
		t.Errorf("%s: %q: %v", name, bad, err)
	}
}
