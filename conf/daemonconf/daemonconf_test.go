package daemonconf

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf"
)

func TestParse(t *testing.T) {
	with := func(change func(*Config)) Config {
		c := Default()
		change(&c)
		return c
	}
	tests := []struct {
		name, in string
		want     Config
	}{
		{"an empty file has the defaults", "", Default()},
		{"so has one of comments", "# nothing\n", Default()},
		{"so has null", "null", Default()},
		{"a path is cleaned", "stateDir: /a//b/", with(func(c *Config) { c.StateDir = "/a/b" })},
		{"metrics nowhere", `metricsAddress: ""`, with(func(c *Config) { c.MetricsAddress = "" })},
		{"metrics of IPv6", `metricsAddress: "[::1]:9469"`, with(func(c *Config) { c.MetricsAddress = "[::1]:9469" })},
		{"no pod's drops apart", "metricsPods: 0", with(func(c *Config) { c.MetricsPods = 0 })},
		{"a level", "logLevel: warn", with(func(c *Config) { c.LogLevel = slog.LevelWarn })},
		{"a format", "logFormat: json", with(func(c *Config) { c.LogFormat = LogJSON })},
		{"the node by policy", "nodeEgress: policy", with(func(c *Config) { c.NodeEgress = NodeEgressByPolicy })},
		{"every table ours", "tamperProtection: on", with(func(c *Config) { c.TamperProtection = TamperOn })},
		{"no table ours", `{"tamperProtection": "off"}`, with(func(c *Config) { c.TamperProtection = TamperOff })},
		{"what pods may ask for", "podAnnotations: [raw-sockets]", with(func(c *Config) { c.PodAnnotations = []string{"raw-sockets"} })},
		{"all events", "events: [drops, accepts]\neventRate: 500", with(func(c *Config) { c.Events, c.EventRate = []string{"drops", "accepts"}, 500 })},
		{"no events", "events: []", with(func(c *Config) { c.Events = nil })},
		{"no runtime is sandboxed", "sandboxedRuntimes: []", with(func(c *Config) { c.SandboxedRuntimes = nil })},
		{"other runtimes, as a block", "sandboxedRuntimes:\n- &n nabla\n- *n\n- vm-?", with(func(c *Config) { c.SandboxedRuntimes = []string{"nabla", "nabla", "vm-?"} })},
		{"sandboxed pods start", "sandboxedPods: report", with(func(c *Config) { c.SandboxedPods = SandboxedReport })},
		{"an alias", "policyDir: &d /p\nstateDir: *d", with(func(c *Config) { c.PolicyDir, c.StateDir = "/p", "/p" })},
		{"JSON", `{"nodeName": "n1"}`, with(func(c *Config) { c.NodeName = "n1" })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Parse("f", []byte(tt.in)); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"misspelt name", "sockte: /a", `f: field sockte: unknown field with value "/a": want one of cniCacheDir, `},
		{"name of a flag", "state-dir: /a", `f: field state-dir: unknown field`},
		{"misspelt value", "logLevel: loud", `f: field logLevel: "loud": want debug, info, warn or error`},
		{"format", "logFormat: xml", `f: field logFormat: "xml": want text or json`},
		{"egress", "nodeEgress: deny", `f: field nodeEgress: "deny": want policy or allow`},
		{"number", "nodeName: 12", `f: field nodeName: "12": want a string`},
		{"nothing", "nodeName:", `f: field nodeName: "": want a string`},
		{"date", "nodeName: 2020-01-01", `f: field nodeName: "2020-01-01": want a string`},
		{"string for a number", `metricsPods: "7"`, `f: field metricsPods: "7": want a whole number`},
		{"fraction", "metricsPods: 1.5", `f: field metricsPods: "1.5": want a whole number`},
		{"a number too low", "metricsPods: -1", "f: field metricsPods: -1: want 0 to 10000"},
		{"a number beyond all", "metricsPods: 99999999999999999999", `f: field metricsPods: "99999999999999999999": want a whole number`},
		{"list", "policyDir: [a]", `f: field policyDir: "[a]": want a string`},
		{"string for a list", "podAnnotations: raw-sockets", `f: field podAnnotations: "raw-sockets": want a list of strings`},
		{"nothing for a list", "podAnnotations:", `f: field podAnnotations: "": want a list of strings`},
		{"list of numbers", "sandboxedRuntimes: [a, 1]", `f: field sandboxedRuntimes: "[a, 1]": want a list of strings`},
		{"list of lists", "sandboxedRuntimes: [[a]]", `f: field sandboxedRuntimes: "[[a]]": want a list of strings`},
		{"a list that is its own element", "sandboxedRuntimes: &a [*a]", `f: field sandboxedRuntimes: "`},
		{"an annotation that there is not", "podAnnotations: [podwall.io/raw-sockets]", `f: field podAnnotations: "podwall.io/raw-sockets": want raw-sockets, audit or observe`},
		{"an event that there is not", "events: [all]", `f: field events: "all": want drops or accepts`},
		{"no event at all", "eventRate: 0", `f: field eventRate: 0: want 1 to 10000`},
		{"a runtime without name", `sandboxedRuntimes: [""]`, `f: field sandboxedRuntimes: "": want a runtime class's name`},
		{"a runtime in brackets", `sandboxedRuntimes: ["kata[", a]`, `f: field sandboxedRuntimes: "kata[": want a runtime class's name`},
		{"sandboxed pods", `sandboxedPods: allow`, `f: field sandboxedPods: "allow": want refuse or report`},
		{"tamper protection", `tamperProtection: yes`, `f: field tamperProtection: "yes": want on, auto or off`},
		{"relative path", "policyDir: policies", `f: field policyDir: "policies": want an absolute path`},
		{"no port", "metricsAddress: localhost", `f: field metricsAddress: "localhost": want host:port`},
		{"wrong port", "metricsAddress: localhost:99999", `f: field metricsAddress: "localhost:99999": want a port of 0 to 65535`},
		{"a node's name in capitals", "nodeName: N1", `f: field nodeName: "N1": want a node's name`},
		{"twice", "nodeName: a\nnodeName: b", `mapping key "nodeName" already defined`},
		{"two documents", "nodeName: a\n---\nnodeName: b", "f: more than one YAML document"},
		{"no mapping", "- a", "f: yaml: "},
		{"no YAML", "a: [", "f: yaml: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("f", []byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			var ce *conf.Error
			if !errors.As(err, &ce) || !reflect.DeepEqual(c, Config{}) {
				t.Errorf("%T with %+v, want a conf.Error and nothing", err, c)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podwalld.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("logFormat: xml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+": field logFormat") {
		t.Errorf("wrong file: %v", err)
	}
}

// Every field has a flag of the same name, whose default is its own.
func TestFlags(t *testing.T) {
	c := Default()
	fields := c.fields()
	for _, f := range Fields() {
		field, kinds := fields[f.Name], 0
		for _, is := range []bool{field.Text != nil, field.List != nil, field.Number != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			t.Errorf("%s is of %d kinds", f.Name, kinds)
		}
		delete(fields, f.Name)
		if got := camel(f.Flag); got != f.Name {
			t.Errorf("flag --%s is called %s, its field %s", f.Flag, got, f.Name)
		}
		if err := c.Set(f.Flag, f.Default); err != nil {
			t.Errorf("its default: %v", err)
		}
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("all flags at their defaults give %+v, want %+v", c, Default())
	}
	if len(fields) > 0 {
		t.Errorf("fields without flag: %v", fields)
	}
}

// camel is policyDir for policy-dir.
func camel(flag string) string {
	words := strings.Split(flag, "-")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

func TestSet(t *testing.T) {
	c := Default()
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set("policy-dir", "policies"); err != nil || c.PolicyDir != filepath.Join(here, "policies") {
		t.Errorf("a relative path is %q, %v; want it below the working directory", c.PolicyDir, err)
	}
	if err := c.Set("policy-dir", ""); err != nil || c.PolicyDir != "" {
		t.Errorf("an empty path is %q, %v; want none", c.PolicyDir, err)
	}
	if err := c.Set("log-level", "loud"); err == nil || err.Error() != `flag --log-level: "loud": want debug, info, warn or error` {
		t.Errorf("wrong value: %v", err)
	}
	if err := c.Set("sandboxed-runtimes", "kata,vm-*"); err != nil || !slices.Equal(c.SandboxedRuntimes, []string{"kata", "vm-*"}) {
		t.Errorf("a list is %q, %v", c.SandboxedRuntimes, err)
	}
	if err := c.Set("sandboxed-runtimes", ""); err != nil || c.SandboxedRuntimes != nil {
		t.Errorf("an empty list is %q, %v", c.SandboxedRuntimes, err)
	}
	if err := c.Set("pod-annotations", "raw-sockets,"); err == nil || err.Error() != `flag --pod-annotations: "": want raw-sockets, audit or observe` {
		t.Errorf("a comma too many: %v", err)
	}
	if err := c.Set("metrics-pods", "12"); err != nil || c.MetricsPods != 12 {
		t.Errorf("a number is %d, %v", c.MetricsPods, err)
	}
	if err := c.Set("metrics-pods", "many"); err == nil || err.Error() != `flag --metrics-pods: "many": want a whole number` {
		t.Errorf("no number: %v", err)
	}
	if err := c.Set("logLevel", "info"); !errors.Is(err, conf.ErrUnknown) {
		t.Errorf("no flag: %v", err)
	}
}

func TestOneSource(t *testing.T) {
	c := Default()
	c.PolicyDir = "/p"
	if err := c.Validate(); err != nil {
		t.Errorf("one source: %v", err)
	}
	c.Kubeconfig = "/k"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "field kubeconfig") {
		t.Errorf("two sources: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("policyDir: /p\nlogLevel: debug\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("<<: {socket: /a}\nnodeName: 1\n"))
	f.Add([]byte("--- {}\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b)
		if (err == nil) == reflect.DeepEqual(c, Config{}) {
			t.Errorf("Parse(%q) = %+v, %v", b, c, err)
		}
		if err == nil && (!filepath.IsAbs(c.Socket) || !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.CNICacheDir)) {
			t.Errorf("Parse(%q) has a relative path: %+v", b, c)
		}
	})
}
