// Package daemonconf reads podwalld's configuration file.
//
//	policyDir: /etc/podwall/policies
//	logLevel: debug
//
// # Contract
//
// Each flag of podwalld has a field of the same name, and the other way round:
// Fields lists them, Load reads a file, and Set gives a flag's text to its field,
// with the same checks and the same errors. Validate comes after both, since it
// compares fields.
//
// The file is one YAML document. A field that does not exist, one that is given
// twice and one that is not a string, or not a list of strings or a whole number
// where that is wanted, are errors that name it. As a flag a list is written with commas.
package daemonconf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/podwall/podwall/conf"
)

// A Config is podwalld's configuration. Default makes one.
type Config struct {
	// Socket is the absolute path at which podwalld listens.
	Socket string `json:"socket,omitempty" jsonschema:"default=/run/podwall/podwalld.sock,pattern=^/,maxLength=107"`
	// StateDir is the directory of state.db, the database.
	StateDir string `json:"stateDir,omitempty" jsonschema:"default=/var/lib/podwall,pattern=^/"`
	// PolicyDir is a directory of Kubernetes manifests, which make it the source of policy.
	PolicyDir string `json:"policyDir,omitempty" jsonschema:"pattern=^(/|$)"`
	// Kubeconfig is a kubeconfig file, which makes its cluster the source of policy. If policyDir is empty too, a pod's own cluster is.
	Kubeconfig string `json:"kubeconfig,omitempty" jsonschema:"pattern=^(/|$)"`
	// NodeName is this node's name in the cluster; empty means the host's name.
	NodeName string `json:"nodeName,omitempty" jsonschema:"maxLength=253"`
	// CNICacheDir is libcni's cache, from which pods that run already are adopted.
	CNICacheDir string `json:"cniCacheDir,omitempty" jsonschema:"default=/var/lib/cni,pattern=^/"`
	// MetricsAddress is the host:port at which metrics are served; empty means nowhere.
	MetricsAddress string `json:"metricsAddress,omitempty" jsonschema:"default=127.0.0.1:9469"`
	// MetricsPods is how many pods' drops are told apart in the metrics; those of further pods are counted together.
	MetricsPods int `json:"metricsPods,omitempty" jsonschema:"default=100,minimum=0,maximum=10000"`
	// LogLevel is the least level that is logged.
	LogLevel slog.Level `json:"logLevel,omitempty" jsonschema:"default=info,enum=debug,enum=info,enum=warn,enum=error"`
	// LogFormat is the form of log lines.
	LogFormat LogFormat `json:"logFormat,omitempty" jsonschema:"default=text,enum=text,enum=json"`
	// NodeEgress says whether pods may always reach their own node, or only by policy.
	NodeEgress NodeEgress `json:"nodeEgress,omitempty" jsonschema:"default=allow,enum=allow,enum=policy"`
	// TamperProtection says whose tables only podwalld may change: every pod's (on), those of pods that may have CAP_NET_ADMIN (auto), or none (off).
	TamperProtection TamperProtection `json:"tamperProtection,omitempty" jsonschema:"default=auto,enum=auto,enum=on,enum=off"`
	// PodAnnotations are those, of podwall.io/…, by which pods may change their own firewall.
	PodAnnotations []string `json:"podAnnotations,omitempty" jsonschema:"enum=raw-sockets,enum=audit,enum=observe"`
	// Events are those that rules send to podwalld: of packets that are dropped, and of new flows that are accepted.
	Events []string `json:"events,omitempty" jsonschema:"default=drops,enum=drops,enum=accepts"`
	// EventRate is how many events of each kind a pod's interface sends in a second; the others are counted.
	EventRate int `json:"eventRate,omitempty" jsonschema:"default=10,minimum=1,maximum=10000"`
	// EventBurst is how many of them it sends at once, after a quiet time.
	EventBurst int `json:"eventBurst,omitempty" jsonschema:"default=100,minimum=1,maximum=10000"`
	// SandboxedRuntimes are the runtime classes whose pods' traffic does not pass the rules in their namespace; * stands for any text, ? for any character.
	SandboxedRuntimes []string `json:"sandboxedRuntimes,omitempty" jsonschema:"default=kata,default=kata-*,default=gvisor,default=runsc,pattern=^[-a-z0-9.*?]+$"`
	// SandboxedPods says what becomes of a pod whose traffic does not pass the rules in its namespace: it does not start, or it is reported as Unprotected.
	SandboxedPods SandboxedPods `json:"sandboxedPods,omitempty" jsonschema:"default=refuse,enum=refuse,enum=report"`
}

// What PodAnnotations may hold.
const (
	// AnnotationRawSockets permits podwall.io/raw-sockets: allow, which does for one
	// pod what rawSockets does in the conflist.
	AnnotationRawSockets = "raw-sockets"
	// AnnotationAudit permits podwall.io/audit: "true" on pods and namespaces, which
	// lets pass what NetworkPolicies would drop.
	AnnotationAudit = "audit"
	// AnnotationObserve permits podwall.io/observe: "true" on pods and namespaces,
	// which does for them what accepts among the Events does for all.
	AnnotationObserve = "observe"
)

// What Events may hold.
const (
	EventsDrops   = "drops"
	EventsAccepts = "accepts"
)

// Default returns what an empty file means.
func Default() Config {
	return Config{
		Socket:            "/run/podwall/podwalld.sock",
		StateDir:          "/var/lib/podwall",
		CNICacheDir:       "/var/lib/cni",
		MetricsAddress:    "127.0.0.1:9469",
		MetricsPods:       100,
		LogLevel:          slog.LevelInfo,
		LogFormat:         LogText,
		NodeEgress:        NodeEgressAllow,
		TamperProtection:  TamperAuto,
		Events:            []string{EventsDrops},
		EventRate:         10,
		EventBurst:        100,
		SandboxedRuntimes: []string{"kata", "kata-*", "gvisor", "runsc"},
		SandboxedPods:     SandboxedRefuse,
	}
}

// A Field is a field of Config and the flag that has the same meaning.
type Field struct {
	Name    string // in the file: policyDir
	Flag    string // on the command line, without dashes: policy-dir
	Default string
	Usage   string // one line
	Path    bool   // as a flag it may be relative to the working directory
}

// Fields returns all fields in the order in which people should read them.
func Fields() []Field {
	return []Field{
		{"socket", "socket", "/run/podwall/podwalld.sock", "unix socket to listen on", true},
		{"stateDir", "state-dir", "/var/lib/podwall", "directory of the database, state.db", true},
		{"policyDir", "policy-dir", "", "directory of Kubernetes manifests, as the source of policy", true},
		{"kubeconfig", "kubeconfig", "", "kubeconfig of the cluster, as the source of policy", true},
		{"nodeName", "node-name", "", "this node's name in the cluster (default the host name)", false},
		{"cniCacheDir", "cni-cache-dir", "/var/lib/cni", "libcni's cache, to adopt pods that run already", true},
		{"metricsAddress", "metrics-address", "127.0.0.1:9469", "host:port to serve metrics on; empty for nowhere", false},
		{"metricsPods", "metrics-pods", "100", "how many pods' drops are told apart in the metrics", false},
		{"logLevel", "log-level", "info", "debug, info, warn or error", false},
		{"logFormat", "log-format", "text", "text or json", false},
		{"nodeEgress", "node-egress", "allow", "whether pods may reach their own node: allow, or by policy", false},
		{"tamperProtection", "tamper-protection", "auto", "whose tables only podwalld may change: auto (CAP_NET_ADMIN), on or off", false},
		{"podAnnotations", "pod-annotations", "", "what pods may ask for by annotation, separated by commas: raw-sockets, audit, observe", false},
		{"events", "events", "drops", "what is shown of packets, separated by commas: drops, accepts", false},
		{"eventRate", "event-rate", "10", "events a second of a pod's interface, of each kind", false},
		{"eventBurst", "event-burst", "100", "events of it at once", false},
		{"sandboxedRuntimes", "sandboxed-runtimes", "kata,kata-*,gvisor,runsc", "runtime classes whose pods' traffic does not pass the rules in their namespace", false},
		{"sandboxedPods", "sandboxed-pods", "refuse", "what becomes of such pods: refuse, or report", false},
	}
}

func (c *Config) fields() conf.Fields {
	return conf.Fields{
		"socket":            conf.Socket(&c.Socket),
		"stateDir":          conf.Path(&c.StateDir),
		"policyDir":         optionalPath(&c.PolicyDir),
		"kubeconfig":        optionalPath(&c.Kubeconfig),
		"nodeName":          {Text: c.setNodeName},
		"cniCacheDir":       conf.Path(&c.CNICacheDir),
		"metricsAddress":    {Text: c.setMetricsAddress},
		"metricsPods":       conf.Number(&c.MetricsPods, 0, 10000),
		"logLevel":          {Text: c.setLogLevel},
		"logFormat":         conf.Text(&c.LogFormat),
		"nodeEgress":        conf.Text(&c.NodeEgress),
		"tamperProtection":  conf.Text(&c.TamperProtection),
		"podAnnotations":    conf.List(&c.PodAnnotations, oneOf(AnnotationRawSockets, AnnotationAudit, AnnotationObserve)),
		"events":            conf.List(&c.Events, oneOf(EventsDrops, EventsAccepts)),
		"eventRate":         conf.Number(&c.EventRate, 1, 10000),
		"eventBurst":        conf.Number(&c.EventBurst, 1, 10000),
		"sandboxedRuntimes": conf.List(&c.SandboxedRuntimes, checkRuntime),
		"sandboxedPods":     conf.Text(&c.SandboxedPods),
	}
}

// optionalPath is a path or, empty, the absence of one.
func optionalPath(dst *string) conf.Field {
	return conf.Field{Text: func(s string) error {
		if s == "" {
			*dst = ""
			return nil
		}
		return conf.Path(dst).Text(s)
	}}
}

// oneOf admits the given names.
func oneOf(names ...string) func(string) error {
	return func(name string) error {
		_, err := conf.OneOf([]byte(name), names...)
		return err
	}
}

// checkRuntime admits what may match the name of a runtime class.
func checkRuntime(pattern string) error {
	other := func(r rune) bool { return notInNames(r) && r != '*' && r != '?' }
	if pattern == "" || strings.ContainsFunc(pattern, other) {
		return fmt.Errorf("%s: want a runtime class's name of a-z, 0-9, '-' and '.', with '*' for any text and '?' for any character", conf.Quote(pattern))
	}
	return nil
}

func (c *Config) setNodeName(s string) error {
	if len(s) > 253 || strings.IndexFunc(s, notInNames) >= 0 {
		return fmt.Errorf("%s: want a node's name: at most 253 of a-z, 0-9, '-' and '.'", conf.Quote(s))
	}
	c.NodeName = s
	return nil
}

func notInNames(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.')
}

func (c *Config) setMetricsAddress(s string) error {
	if s != "" {
		_, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("%s: want host:port", conf.Quote(s))
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%s: want a port of 0 to 65535", conf.Quote(s))
		}
	}
	c.MetricsAddress = s
	return nil
}

func (c *Config) setLogLevel(s string) error {
	i, err := conf.OneOf([]byte(s), "debug", "info", "warn", "error")
	if err != nil {
		return err
	}
	c.LogLevel = [...]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[i]
	return nil
}

// Load reads the file at path.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, &conf.Error{Object: path, Err: err}
	}
	return Parse(path, b)
}

// Parse reads the content of the file called name. Its errors are *conf.Errors,
// joined if there are several.
func Parse(name string, content []byte) (Config, error) {
	c := Default()
	values, err := decode(content)
	if err != nil {
		return Config{}, &conf.Error{Object: name, Err: err}
	}
	if err := c.fields().Set(name, values); err != nil {
		return Config{}, err
	}
	return c, nil
}

// decode returns the fields of the only document in content.
func decode(content []byte) (map[string]conf.Value, error) {
	d := yaml.NewDecoder(bytes.NewReader(content))
	var doc map[string]yaml.Node
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document: want one")
	}
	values := make(map[string]conf.Value, len(doc))
	for name, node := range doc {
		values[name] = value(&node)
	}
	return values, nil
}

// value keeps a string as it is, and a list of strings, also through aliases; of
// all else only what is written, for the error.
func value(n *yaml.Node) conf.Value {
	n = meant(n)
	if n.Kind == yaml.ScalarNode {
		return conf.Value{Text: n.Value, String: isString(n), Number: n.ShortTag() == "!!int"}
	}
	b, _ := yaml.Marshal(n) // what can't be written again is reported as empty
	return conf.Value{Text: strings.TrimSpace(string(b)), List: list(n)}
}

// list is n's elements if n is a list of strings, else nil.
func list(n *yaml.Node) []string {
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	elements := []string{}
	for _, e := range n.Content {
		e = meant(e) // and no deeper: a list may be an element of itself
		if !isString(e) {
			return nil
		}
		elements = append(elements, e.Value)
	}
	return elements
}

// meant is n, or what n is an alias of.
func meant(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isString(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" }

// Set gives text to the field that belongs to the flag. Its errors name the flag.
func (c *Config) Set(flag, text string) error {
	fields := Fields()
	i := slices.IndexFunc(fields, func(f Field) bool { return f.Flag == flag })
	if i < 0 {
		return fmt.Errorf("flag --%s: %w", flag, conf.ErrUnknown)
	}
	if fields[i].Path && text != "" {
		abs, err := filepath.Abs(text)
		if err != nil {
			return fmt.Errorf("flag --%s: %w", flag, err)
		}
		text = abs
	}
	if err := c.fields()[fields[i].Name].SetFlag(text); err != nil {
		return fmt.Errorf("flag --%s: %w", flag, err)
	}
	return nil
}

// Validate reports what is wrong with the fields together.
func (c *Config) Validate() error {
	if c.PolicyDir != "" && c.Kubeconfig != "" {
		return &conf.Error{
			Object: "configuration", Field: "kubeconfig",
			Err: fmt.Errorf("policyDir is %s: want one source of policy", conf.Quote(c.PolicyDir)),
		}
	}
	return nil
}
