package main

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf/netconf"
)

func TestParseArgs(t *testing.T) {
	web := identity{"shop", "web", "u1"}
	tests := []struct {
		name, args string
		want       identity
	}{
		{"nothing", "", identity{}},
		{"as kubelet writes it", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=4f;K8S_POD_UID=u1", web},
		{"another order", "K8S_POD_UID=u1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;IgnoreUnknown=true", web},
		{"unknown keys without IgnoreUnknown", "A=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1;MAC=02:00", web},
		{"pieces that are no pair", ";;x;=;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1;", web},
		{"the same twice", "K8S_POD_NAME=web;K8S_POD_NAME=web", identity{name: "web"}},
		{"empty values are missing", "K8S_POD_NAMESPACE=;K8S_POD_NAME=web", identity{name: "web"}},
		{"an equals sign in a value", "K8S_POD_NAME=a=b", identity{name: "a=b"}},
		{"keys have a case", "k8s_pod_name=web", identity{}},
		{"a name of podman's", "K8S_POD_NAME=Gallant_Wozniak", identity{name: "Gallant_Wozniak"}},
		{"dots", "K8S_POD_NAME=web.0", identity{name: "web.0"}},
		{"the longest name", "K8S_POD_NAME=" + strings.Repeat("x", 253), identity{name: strings.Repeat("x", 253)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parseArgs(tt.args); err != nil || got != tt.want {
				t.Errorf("parseArgs(%q) = %+v, %v; want %+v", tt.args, got, err, tt.want)
			}
		})
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for name, args := range map[string]string{
		"a name too long":          "K8S_POD_NAME=" + strings.Repeat("x", 254),
		"a slash":                  "K8S_POD_NAMESPACE=a/b",
		"a line break":             "K8S_POD_NAME=a\nb",
		"an escape sequence":       "K8S_POD_UID=\x1b[31m",
		"a direction override":     "K8S_POD_NAME=a\u202eb",
		"bytes that are not UTF-8": "K8S_POD_NAME=\xff",
		"two namespaces":           "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b",
	} {
		if got, err := parseArgs(args); err == nil || got != (identity{}) {
			t.Errorf("%s: parseArgs(%q) = %+v, %v; want an error and nobody", name, args, got, err)
		}
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1")
	f.Add("K8S_POD_NAME=a;K8S_POD_NAME=b")
	f.Add(";=;K8S_POD_NAME==")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseArgs(s)
		if err != nil {
			return
		}
		for _, v := range []string{id.namespace, id.name, id.uid} {
			if len(v) > 253 || strings.ContainsAny(v, "/;\n\x00\x1b") {
				t.Errorf("parseArgs(%q) has a name %q", s, v)
			}
		}
		again, err := parseArgs("K8S_POD_UID=" + id.uid + ";K8S_POD_NAME=" + id.name + ";K8S_POD_NAMESPACE=" + id.namespace)
		if err != nil || again != id {
			t.Errorf("read again, %+v is %+v, %v", id, again, err)
		}
	})
}

func TestAddresses(t *testing.T) {
	const devices = `"interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}]`
	tests := []struct {
		name, ips string
		want      []string
	}{
		{"none", ``, nil},
		{"both families", `{"address": "10.0.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}`, []string{"10.0.0.2", "fd00::2"}},
		{"another interface's", `{"address": "10.0.0.2/24", "interface": 2}`, nil},
		{"the node's interface of the same name", `{"address": "10.0.0.2/24", "interface": 0}`, nil},
		{"no interface", `{"address": "10.0.0.2/24"}`, []string{"10.0.0.2"}},
		{"IPv4 in IPv6", `{"address": "::ffff:10.0.0.2/120", "interface": 1}`, []string{"10.0.0.2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := netconf.Conf{CNIVersion: "1.0.0", PrevResult: json.RawMessage(`{` + devices + `, "ips": [` + tt.ips + `]}`)}
			p, err := parsePrevious(&c)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := p.addresses("eth0"), addrs(tt.want...); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Nothing that another plugin returns makes this one crash, and what it prints is
// a result that it would take.
func FuzzParsePrevious(f *testing.F) {
	for _, from := range []string{"0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		f.Add([]byte(`{"cniVersion": "`+from+`", "interfaces": [{"name": "eth0", "sandbox": "/n"}], "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 0}]}`), "1.0.0")
		f.Add([]byte(`{"cniVersion": "`+from+`", "interfaces": [null], "ips": [null], "routes": [null]}`), "0.3.1")
	}
	f.Add([]byte(`{"cniVersion": "1.0.0", "routes": [null, {"dst": "10.0.0.0/8"}], "dns": null}`), "0.4.0")
	f.Add([]byte(`null`), "1.0.0")
	f.Fuzz(func(t *testing.T, raw []byte, version string) {
		if !json.Valid(raw) || !slices.Contains(versions, version) {
			return // netconf.Parse and skel let nothing else through
		}
		c := netconf.Conf{CNIVersion: version, PrevResult: raw}
		p, err := parsePrevious(&c)
		if err != nil {
			return
		}
		p.addresses("eth0")
		c.PrevResult = p.output
		if again, err := parsePrevious(&c); err != nil || !reflect.DeepEqual(again.IPs, p.IPs) {
			t.Errorf("%s becomes %s: %v", raw, p.output, err)
		}
	})
}
