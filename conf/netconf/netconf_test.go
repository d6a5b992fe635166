package netconf

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/conf"
)

func TestParse(t *testing.T) {
	entry := func(change func(*Entry)) Entry {
		e := Default()
		change(&e)
		return e
	}
	tests := []struct {
		name, in string
		want     Conf
	}{
		{"an entry without fields has the defaults", `{"name": "k8s"}`, Conf{Network: "k8s", Entry: Default()}},
		{"all fields", `{"name": "k8s", "type": "pw", "socket": "/a//b", "failurePolicy": "open", "namespace": "lab-1", "rawSockets": "allow", "cniVersion": "1.0.0"}`,
			Conf{Network: "k8s", CNIVersion: "1.0.0", Entry: Entry{"pw", "/a/b", Open, "lab-1", RawAllow}}},
		{"what runtimes add", `{"name": "k8s", "runtimeConfig": {"x": 1}, "args": {"cni": {}}, "cni.dev/anything": 5}`,
			Conf{Network: "k8s", Entry: Default()}},
		{"closed, said", `{"name": "k8s", "failurePolicy": "closed"}`,
			Conf{Network: "k8s", Entry: entry(func(e *Entry) { e.FailurePolicy = Closed })}},
		{"a result that is null is none", `{"name": "k8s", "prevResult": null}`, Conf{Network: "k8s", Entry: Default()}},
		{"a result", `{"name": "k8s", "prevResult": {"a":1}}`, Conf{Network: "k8s", Entry: Default(), PrevResult: []byte(`{"a":1}`)}},
		{"attachments", `{"name": "k8s", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}`,
			Conf{Network: "k8s", Entry: Default(), Valid: []types.GCAttachment{{ContainerID: "a", IfName: "eth0"}}}},
		{"no attachments are not nil", `{"name": "k8s", "cni.dev/valid-attachments": null}`,
			Conf{Network: "k8s", Entry: Default(), Valid: []types.GCAttachment{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Parse([]byte(tt.in)); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"misspelt value", `{"name": "k8s", "failurePolicy": "opne"}`, `network "k8s": field failurePolicy: "opne": want closed or open`},
		{"value in capitals", `{"name": "k8s", "failurePolicy": "Open"}`, `network "k8s": field failurePolicy: "Open": want closed or open`},
		{"misspelt name", `{"name": "k8s", "failurepolicy": "open"}`,
			`network "k8s": field failurepolicy: unknown field with value "open": want one of failurePolicy, namespace, rawSockets, socket, type`},
		{"number", `{"name": "k8s", "socket": 5}`, `network "k8s": field socket: "5": want a string`},
		{"a word that means no", `{"name": "k8s", "rawSockets": "no"}`, `network "k8s": field rawSockets: "no": want deny or allow`},
		{"true", `{"name": "k8s", "rawSockets": true}`, `network "k8s": field rawSockets: "true": want a string`},
		{"list", `{"name": "k8s", "rawSockets": ["allow"]}`, `network "k8s": field rawSockets: "[\"allow\"]": want a string`},
		{"null", `{"name": "k8s", "failurePolicy": null}`, `network "k8s": field failurePolicy: "null": want a string`},
		{"object", `{"name": "k8s", "namespace": {}}`, `network "k8s": field namespace: "{}": want a string`},
		{"relative path", `{"name": "k8s", "socket": "s"}`, `network "k8s": field socket: "s": want an absolute path`},
		{"empty path", `{"name": "k8s", "socket": ""}`, `network "k8s": field socket: "": want an absolute path`},
		{"zero byte", `{"name": "k8s", "socket": "/a\u0000b"}`, `network "k8s": field socket: "/a\x00b": a path holds no zero byte`},
		{"long path", `{"name": "k8s", "socket": "/` + strings.Repeat("x", 107) + `"}`,
			`network "k8s": field socket: "/` + strings.Repeat("x", 63) + `"…: a socket's path has at most 107 bytes, this one 108`},
		{"no namespace's name", `{"name": "k8s", "namespace": "A"}`,
			`network "k8s": field namespace: "A": want the name of a namespace: at most 63 of a-z, 0-9 and '-', which stands neither first nor last`},
		{"no network", `{}`, `network "": field name: want the network's name`},
		{"wrong network", `{"name": 1}`, `network "": field name: json: cannot unmarshal number into Go value of type string`},
		{"all at once, in order", `{"name": "k8s", "socket": 5, "a": 1}`,
			`network "k8s": field a: unknown field with value "1": want one of failurePolicy, namespace, rawSockets, socket, type` + "\n" +
				`network "k8s": field socket: "5": want a string`},
		{"no JSON", `rubbish`, `network "": configuration: invalid character 'r' looking for beginning of value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			var ce *conf.Error
			if !errors.As(err, &ce) {
				t.Errorf("%T is no conf.Error", err)
			}
			if unknown := strings.Contains(tt.want, "unknown field"); errors.Is(err, conf.ErrUnknown) != unknown {
				t.Errorf("errors.Is(ErrUnknown) = %v, want %v", !unknown, unknown)
			}
		})
	}
}

// For a DEL: one wrong field does not hide the others.
func TestErrorsLeaveTheRest(t *testing.T) {
	got, err := Parse([]byte(`{"name": "k8s", "failurePolicy": "opne", "socket": "/a", "x": 1}`))
	want := Default()
	want.Socket = "/a"
	if err == nil || got.Entry != want {
		t.Errorf("got %+v, %v; want %+v and errors", got.Entry, err, want)
	}
}

func TestZeroIsClosed(t *testing.T) {
	for _, e := range []Entry{{}, Default()} {
		if e.FailurePolicy != Closed || e.RawSockets != RawDeny {
			t.Errorf("an entry that says nothing is open: %+v", e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion": "1.0.0", "name": "k8s", "type": "podwall", "socket": "/s", "failurePolicy": "open", "namespace": "a"}`))
	f.Add([]byte(`{"name": "k8s", "prevResult": {"ips": []}, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}]}`))
	f.Add([]byte(`{"name": "k8s", "failurePolicy": {}, "x": []}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			c.PrevResult = nil
		}
		if !strings.HasPrefix(c.Socket, "/") || !isLabel(c.Namespace) || c.FailurePolicy > Open || c.RawSockets > RawAllow {
			t.Errorf("Parse(%q) = %+v, %v", b, c, err)
		}
		if c.FailurePolicy == Open && !strings.Contains(string(b), "\\u") && !strings.Contains(string(b), `"open"`) {
			t.Errorf("%q is open, which it does not say", b)
		}
	})
}
