package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"
	cni "github.com/containernetworking/cni/pkg/version"
)

const entry = `{"type": "podwall", "failurePolicy": "open"}`

// networks are what the fuzzer begins with, and what every law is tried on.
var networks = []string{
	`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}`,
	"{\n  \"name\": \"x\",\n  \"plugins\": [\n    {\"type\": \"bridge\", \"n\": 1e3},\n    {\"type\": \"tuning\"}\n  ]\n}\n",
	"\t{ \"plugins\" :\n[ {\"type\":\"podwall\"} , {\"type\":\"bridge\"} , {\"type\":\"podwall\"},{\"type\":\"podwall\"}, {\"type\":\"b\"} ] , \"name\" : \"x\" }",
	`{"name":"x","plugins":[{"type":"old"}],"plugins":[{"type":"bridge"}]}`,
	`{"name":"x","plug\u0069ns":[{"Type":"podwall","type":"bridge"},{"TYPE":"podwall"}]}`,
	`{"name":"x","plugins":[{"type":"a","plugins":[{"type":"podwall"}]}],"Plugins":[{"type":"b"}]}`,
	`{"name":"x","plugins":[{"type":"podwall"}]}`,
	`{"name":"x","cniVersions":["0.4.0","1.1.0"],"cniVersion":"1.0.0","plugins":[{"type":"a"}],"loadOnlyInlinedPlugins":true}`,
	`{"name":"x","plugins":[{"type":"a","s":"\ud800]\",{"},{"type":"\u0070odwall"}]}`,
	`{"name":"x"}`,
}

// FuzzList holds the editor to the package's contract.
func FuzzList(f *testing.F) {
	for _, n := range networks {
		f.Add([]byte(n))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before, libcniErr := libcni.NetworkConfFromBytes(text)
		l, err := Parse(text)
		if (err == nil || errors.Is(err, ErrNoPlugins)) != (libcniErr == nil) {
			t.Fatalf("Parse: %v, libcni: %v", err, libcniErr)
		}
		if err != nil {
			return
		}
		without, err := l.Without()
		if errors.Is(err, ErrAlone) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		with, err := l.With([]byte(entry))
		if err != nil {
			t.Fatalf("With refuses what Without takes: %v", err)
		}
		want := slices.DeleteFunc(configs(t, before), func(c string) bool { return typeOf(c) == Plugin })
		same(t, "Without", without, want)
		same(t, "With", with, append(want, compactString(entry)))
		again := parse(t, with)
		if twice, err := again.With([]byte(entry)); err != nil || !bytes.Equal(twice, with) {
			t.Errorf("With again: %v\n%s", err, twice)
		}
		if back, err := again.Without(); err != nil || !bytes.Equal(back, without) {
			t.Errorf("Without after With: %v\n got %s\nwant %s", err, back, without)
		}
		raised := parse(t, l.WithVersion("1.1.0"))
		if low, err := cni.GreaterThan("1.1.0", raised.Version); err != nil || low || !slices.Equal(raised.Types, l.Types) {
			t.Errorf("WithVersion: %q with %v", raised.Version, raised.Types)
		}
	})
}

func parse(t *testing.T, text []byte) *List {
	t.Helper()
	l, err := Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return l
}

// same demands that libcni reads the wanted plugins.
func same(t *testing.T, what string, text []byte, want []string) {
	t.Helper()
	l, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		t.Fatalf("%s: libcni: %v in\n%s", what, err, text)
	}
	if got := configs(t, l); !slices.Equal(got, want) {
		t.Errorf("%s: libcni reads\n%q, want\n%q", what, got, want)
	}
}

// configs are the plugins as libcni calls them.
func configs(t *testing.T, l *libcni.NetworkConfigList) []string {
	t.Helper()
	var out []string
	for _, p := range l.Plugins {
		out = append(out, string(p.Bytes))
	}
	return out
}

func typeOf(config string) string { return TypeOf([]byte(config)) }

// compactString is an object as libcni passes it on: without white space, the
// keys in order.
func compactString(object string) string {
	var m map[string]any
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		return err.Error()
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestIs(t *testing.T) {
	tests := []struct {
		name    string
		plugins string
		want    bool
	}{
		{"last and the same", `[{"type":"a"},{"failurePolicy":"open","type":"podwall"}]`, true},
		{"other field", `[{"type":"a"},{"type":"podwall"}]`, false},
		{"not last", `[{"type":"podwall","failurePolicy":"open"},{"type":"a"}]`, false},
		{"twice", `[{"type":"a"},{"type":"podwall","failurePolicy":"open"},{"type":"podwall","failurePolicy":"open"}]`, false},
		{"alone", `[{"type":"podwall","failurePolicy":"open"}]`, false},
		{"missing", `[{"type":"a"}]`, false},
	}
	for _, tt := range tests {
		if got := parse(t, []byte(`{"name":"x","plugins":`+tt.plugins+`}`)).Is([]byte(entry)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// A conflist made of a single plugin means to libcni what libcni itself makes of it.
func FuzzFromConf(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"0.4.0","name":"lan","type":"macvlan","ipam":{"type":"dhcp"}}`))
	f.Add([]byte("\n {\"name\":\"\\u006can\",\"type\":\"a\",\"x\":[1.0,{}]}\n"))
	f.Add([]byte(`{"name":"lan","type":"podwall"}`))
	f.Add([]byte(`{"type":"bridge"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		made, err := FromConf(text)
		if err != nil {
			return
		}
		single, err := libcni.NetworkPluginConfFromBytes(text)
		if err != nil {
			t.Fatalf("FromConf takes what libcni refuses: %v", err)
		}
		want, err := libcni.ConfListFromConf(single) //nolint:staticcheck // runtimes call it
		if err != nil {
			t.Fatal(err)
		}
		got := parse(t, made)
		if got.Name != want.Name || got.Version != want.CNIVersion {
			t.Errorf("network %q version %q, want %q and %q", got.Name, got.Version, want.Name, want.CNIVersion)
		}
		same(t, "FromConf", made, configs(t, want))
	})
}

// Whatever the file of a meta plugin holds, its delegates get podwall and give it
// back.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"type":"multus","name":"m","delegates":[{"name":"a","plugins":[{"type":"b"}]}, {"name":"c","plugins":[{"type":"d"},{"type":"podwall"}]}]}`))
	f.Add([]byte(`{"name":"m","plugins":[ {"type":"multus-shim","clusterNetwork":"x","delegates":[{"name":"a","plugins":[{"type":"b"}]}]} ]}`))
	f.Add([]byte(`{"type":"multus","name":"m","delegates":[{"name":"a","type":"b"},{"name":"a","plugins":[{"type":"b"}]}]}`))
	f.Add([]byte(`{"type":"multus","name":"m","delegates":{"a":1},"clusterNetwork":7}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMeta(text)
		if m == nil || err != nil {
			return
		}
		with, err := m.With([]byte(entry))
		if err != nil {
			return
		}
		if !json.Valid(with) {
			t.Fatalf("With gives no JSON:\n%s", with)
		}
		again, err := ParseMeta(with)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range again.Delegates {
			if !d.Is([]byte(entry)) {
				t.Errorf("delegate %d has plugins %v", i, d.Types)
			}
		}
		without, err := m.Without()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := again.Without(); err != nil || !bytes.Equal(back, without) {
			t.Errorf("Without after With: %v\n got %s\nwant %s", err, back, without)
		}
	})
}
