package conf_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/conf/netconf"
)

// samples returns the contents of the samples whose names fit pattern, by name.
func samples(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("samples", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no sample is named %s: %v", pattern, err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = b
	}
	return all
}

// networks are the sample conflists, also the one inside a definition of Multus.
func networks(t *testing.T) map[string][]byte {
	t.Helper()
	all := samples(t, "*.conflist")
	for name, b := range samples(t, "*-multus.yaml") {
		var def struct {
			Kind string
			Spec struct{ Config string }
		}
		if err := yaml.Unmarshal(b, &def); err != nil {
			t.Fatal(err)
		}
		if def.Kind != "NetworkAttachmentDefinition" {
			t.Errorf("%s is a %q", name, def.Kind)
		}
		all[name] = []byte(def.Spec.Config)
	}
	return all
}

// What libcni makes of a sample is what the plugin reads.
func TestSampleNetworks(t *testing.T) {
	for name, b := range networks(t) {
		t.Run(name, func(t *testing.T) {
			list, err := libcni.NetworkConfFromBytes(b)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for i, plugin := range list.Plugins {
				if plugin.Network.Type != "podwall" {
					continue
				}
				found++
				if i == 0 {
					t.Error("podwall stands first, before there is an interface")
				}
				checkStdin(t, list, plugin)
			}
			if found != 1 {
				t.Errorf("podwall stands in the list %d times", found)
			}
		})
	}
}

// checkStdin parses what libcni would write to the plugin.
func checkStdin(t *testing.T, list *libcni.NetworkConfigList, plugin *libcni.PluginConfig) {
	t.Helper()
	in, err := libcni.InjectConf(plugin, map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion,
		"prevResult":    map[string]any{"cniVersion": list.CNIVersion},
		"runtimeConfig": map[string]any{"portMappings": []any{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := netconf.Parse(in.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if c.Network != list.Name || c.CNIVersion != list.CNIVersion || c.FailurePolicy != netconf.Closed ||
		c.Socket != netconf.DefaultSocket || c.PrevResult == nil {
		t.Errorf("%s is read as %+v", in.Bytes, c)
	}
}

func TestSampleDaemonFiles(t *testing.T) {
	for name, b := range samples(t, "podwalld-*.yaml") {
		t.Run(name, func(t *testing.T) {
			c, err := daemonconf.Parse(name, b)
			if err == nil {
				err = c.Validate()
			}
			if err != nil {
				t.Fatal(err)
			}
			if isDefault := reflect.DeepEqual(c, daemonconf.Default()); isDefault != (name == "podwalld-defaults.yaml") {
				t.Errorf("%+v; is the default: %v", c, isDefault)
			}
		})
	}
}

// The sample of defaults names all fields, so that it can't lag behind.
func TestSampleOfDefaultsIsWhole(t *testing.T) {
	var doc map[string]any
	if err := yaml.Unmarshal(samples(t, "podwalld-defaults.yaml")["podwalld-defaults.yaml"], &doc); err != nil {
		t.Fatal(err)
	}
	for _, f := range daemonconf.Fields() {
		if got, ok := doc[f.Name]; !ok || flagText(got) != f.Default {
			t.Errorf("%s: %v, want %q", f.Name, got, f.Default)
		}
		delete(doc, f.Name)
	}
	if len(doc) > 0 {
		t.Errorf("more fields than there are: %v", doc)
	}
}

// flagText is v as a flag has it.
func flagText(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = fmt.Sprint(e)
	}
	return strings.Join(words, ",")
}

// What editors are told to accept is what the samples hold.
func TestSamplesFitTheirSchemas(t *testing.T) {
	entry, file := formats[0].schema(t), formats[1].schema(t)
	for name, b := range networks(t) {
		var list struct{ Plugins []map[string]any }
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Plugins {
			if p["type"] == "podwall" {
				fits(t, name, entry, p)
			}
		}
	}
	for name, b := range samples(t, "podwalld-*.yaml") {
		var doc map[string]any
		if err := yaml.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		fits(t, name, file, doc)
	}
}

func fits(t *testing.T, name string, s *jsonschema.Schema, fields map[string]any) {
	t.Helper()
	for field, v := range fields {
		p, ok := s.Properties.Get(field)
		if !ok {
			t.Errorf("%s: the schema has no %s", name, field)
			continue
		}
		values := []any{v}
		if list, ok := v.([]any); ok && p.Type == "array" {
			p, values = p.Items, list
		}
		for _, v := range values {
			if !admits(p, v) {
				t.Errorf("%s: %s: the schema does not admit %v", name, field, v)
			}
		}
	}
}

// admits says what an editor with schema s says about v.
func admits(s *jsonschema.Schema, v any) bool {
	text, isText := v.(string)
	if s.Type == "integer" {
		_, err := strconv.Atoi(fmt.Sprint(v))
		return !isText && err == nil
	}
	return isText && regexp.MustCompile(s.Pattern).MatchString(text) && (s.Enum == nil || slices.Contains(s.Enum, v))
}

// Samples break where one letter of a field's name does.
func TestSamplesAreReadStrictly(t *testing.T) {
	for name, b := range networks(t) {
		bad := strings.Replace(string(b), `"type": "podwall"`, `"type": "podwall", "failurepolicy": "open"`, 1)
		list, err := libcni.NetworkConfFromBytes([]byte(bad))
		if err != nil {
			t.Fatal(err)
		}
		for _, plugin := range list.Plugins {
			var fields map[string]any
			if err := json.Unmarshal(plugin.Bytes, &fields); err != nil {
				t.Fatal(err)
			}
			if _, err := netconf.Parse(plugin.Bytes); fields["type"] == "podwall" && (err == nil || !strings.Contains(err.Error(), "field failurepolicy: unknown")) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
