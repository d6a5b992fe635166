package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/queue"
	"github.com/podwall/podwall/internal/ruleset"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// sameJSON fails unless got is what want becomes in JSON.
func sameJSON(t *testing.T, got string, want any) {
	t.Helper()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v: %q", err, got)
	}
	if err := json.Unmarshal(b, &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %s\nwant %s", got, b)
	}
}

func TestAddInEveryVersion(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			f := setup(t)
			prev := result1(f.pod.Path())
			prev["cniVersion"] = version
			f.conf["cniVersion"], f.conf["prevResult"] = version, prev
			for _, when := range []string{"first", "again"} {
				o := f.call(t, "ADD")
				o.mustSucceed(t)
				sameJSON(t, o.stdout, prev)
				got, ok := f.applied(t)
				if want := (applied{f.pod.Inode(t), "eth0", rules, false}); !ok || !reflect.DeepEqual(got, want) {
					t.Errorf("%s time installed %+v, want %+v", when, got, want)
				}
				var done api.Applied
				f.mustGet(t, &done, api.VerbAdd, api.VerbApplied)
				if done.Epoch != 3 || done.Generation != 7 || !slices.Equal(done.Others, []ruleset.Epoch{2}) || done.Took <= 0 {
					t.Errorf("%s time reported %+v, want what stands in the kernel", when, done)
				}
			}
		})
	}
}

func TestAddNamesTheAttachment(t *testing.T) {
	f := setup(t)
	f.reply[api.VerbAdd] = refuse(api.CodeInternal, "enough")
	base := api.Attachment{
		Key:     api.Key{ContainerID: "4f8c0123456789", Interface: "eth0"},
		Netns:   f.pod.Path(),
		Network: "k8s", Namespace: "shop", Name: "web", UID: "u1",
		Addresses: addrs("10.0.0.2", "fd00::2"),
	}
	tests := []struct {
		name   string
		change func()
		want   func(*api.Attachment)
	}{
		{"as kubelet asks", func() {}, func(*api.Attachment) {}},
		{"no arguments", func() { f.env["CNI_ARGS"] = "" },
			func(a *api.Attachment) { a.Namespace, a.Name, a.UID = "default", "", "" }},
		{"no arguments, the namespace is configured", func() { f.env["CNI_ARGS"] = ""; f.conf["namespace"] = "lab" },
			func(a *api.Attachment) { a.Namespace, a.Name, a.UID = "lab", "", "" }},
		{"raw sockets are allowed", func() { f.conf["rawSockets"] = "allow" }, func(a *api.Attachment) { a.RawSockets = true }},
		{"raw sockets are denied", func() { f.conf["rawSockets"] = "deny" }, func(*api.Attachment) {}},
		{"another interface, which has no address here", func() { f.env["CNI_IFNAME"] = "net1" },
			func(a *api.Attachment) { a.Interface, a.Addresses = "net1", nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, conf := f.env, f.conf
			defer func() { f.env, f.conf = env, conf }()
			f.env, f.conf = clone(env), clone(conf)
			tt.change()
			f.call(t, "ADD").mustFail(t, 999, "enough")
			want := base
			tt.want(&want)
			var got api.Attachment
			m := f.mustGet(t, &got, api.VerbAdd)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if m.netns != f.pod.Inode(t) {
				t.Error("the descriptor that came is not the pod's namespace")
			}
		})
	}
}

func clone[V any](m map[string]V) map[string]V {
	out := map[string]V{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func TestBadConfiguration(t *testing.T) {
	f := setup(t)
	tests := []struct {
		name  string
		field string
		value any // nil removes the field
		code  int
		words []string
	}{
		{"unknown field", "failurPolicy", "open", 2, []string{`network "k8s": field failurPolicy: unknown field with value "open"`, "failurePolicy, namespace, rawSockets, socket"}},
		{"misspelt value", "failurePolicy", "opne", 7, []string{`network "k8s": field failurePolicy: "opne": want closed or open`}},
		{"value of another type", "socket", 5, 7, []string{`field socket: "5": want a string`}},
		{"relative socket", "socket", "podwalld.sock", 7, []string{"field socket", "absolute"}},
		{"no result of a plugin before", "prevResult", nil, 7, []string{"field prevResult: missing", "after the plugin"}},
		{"result that is none", "prevResult", []int{1}, 7, []string{"field prevResult"}},
		{"address that is none", "prevResult", map[string]any{"ips": []any{map[string]any{"address": "10.0.0.300/24"}}}, 7, []string{"field prevResult", "10.0.0.300"}},
		{"address that is missing", "prevResult", map[string]any{"ips": []any{nil}}, 7, []string{"field prevResult.ips[0].address"}},
		{"result before 0.3", "prevResult", map[string]any{"cniVersion": "0.2.0", "ip4": map[string]any{"ip": "10.0.0.2/24"}}, 7, []string{`field prevResult.cniVersion: "0.2.0"`}},
		{"interface that is missing", "prevResult", map[string]any{"ips": []any{map[string]any{"address": "10.0.0.2/24", "interface": 1}}}, 7, []string{"field prevResult.ips[0].interface: 1"}},
		{"unknown version", "cniVersion", "9.9.9", 1, nil},
	}
	for _, tt := range tests {
		for _, policy := range []string{"closed", "open"} {
			t.Run(tt.name+", "+policy, func(t *testing.T) {
				conf := f.conf
				defer func() { f.conf = conf }()
				f.conf = clone(conf)
				f.conf["failurePolicy"] = policy
				if f.conf[tt.field] = tt.value; tt.value == nil {
					delete(f.conf, tt.field)
				}
				f.call(t, "ADD").mustFail(t, tt.code, tt.words...)
				f.mustGet(t, nil)
			})
		}
	}
}

func TestNetnsThatIsNone(t *testing.T) {
	f := setup(t)
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, say string }{
		{"missing", filepath.Join(dir, "none"), "no such file"},
		{"regular file", file, "not a network namespace"},
		{"directory", dir, "not a network namespace"},
		{"pipe that nobody writes to", pipe, "not a network namespace"},
		{"namespace of another kind", "/proc/self/ns/mnt", "another kind"},
		{"the node's own", "/proc/self/ns/net", "the node's own"},
	}
	f.conf["failurePolicy"] = "open"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.env["CNI_NETNS"] = tt.path
			f.call(t, "ADD").mustFail(t, 4, "CNI_NETNS", tt.path, tt.say)
			f.mustGet(t, nil)
		})
	}
}

func TestBadArguments(t *testing.T) {
	f := setup(t)
	for _, args := range []string{
		"K8S_POD_NAME=" + strings.Repeat("x", 300),
		"K8S_POD_NAME=a\x1b[2J",
		"K8S_POD_NAME=a;K8S_POD_NAME=b",
	} {
		f.env["CNI_ARGS"] = args
		f.call(t, "ADD").mustFail(t, 4, "CNI_ARGS: K8S_POD_NAME")
	}
	f.mustGet(t, nil)
}

// While one daemon follows another there is none. An ADD waits for it, and a
// daemon that is there and refuses is not asked again.
func TestAddWaitsForTheNextDaemon(t *testing.T) {
	f := setup(t)
	f.install.Handover = 10 * time.Second
	aside := f.socket + ".aside"
	if err := os.Rename(f.socket, aside); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = os.Rename(aside, f.socket) }) // else the ADD fails
	begin := time.Now()
	f.call(t, "ADD").mustSucceed(t)
	if took := time.Since(begin); took < 300*time.Millisecond || took > f.install.Handover/2 {
		t.Errorf("took %v", took)
	}
	f.reply[api.VerbAdd] = refuse(api.CodeUnavailable, "no policy yet")
	f.got = nil
	f.call(t, "ADD").mustFail(t, 11)
	if len(f.got) != 1 {
		t.Errorf("asked %d times", len(f.got))
	}
	f.stop()
	f.install.Handover = 200 * time.Millisecond
	begin = time.Now()
	f.call(t, "ADD").mustFail(t, 11)
	if took := time.Since(begin); took < f.install.Handover-askAgain {
		t.Errorf("gave up after %v", took)
	}
}

// What failurePolicy open lets pass, and what it doesn't.
func TestFailurePolicy(t *testing.T) {
	const away, never = 11, 999
	tests := []struct {
		name   string
		change func(*fixture)
		code   int
	}{
		{"daemon away", func(f *fixture) { f.stop() }, away},
		{"daemon that hangs", func(f *fixture) { f.reply[api.VerbAdd] = answer{hang: true} }, away},
		{"daemon that hangs up", func(f *fixture) { f.reply[api.VerbAdd] = answer{} }, away},
		{"daemon that isn't ready", func(f *fixture) { f.reply[api.VerbAdd] = refuse(api.CodeUnavailable, "no policy yet") }, away},
		{"daemon that dies before it confirms", func(f *fixture) { f.reply[api.VerbApplied] = answer{} }, away},
		{"daemon that never confirms", func(f *fixture) { f.reply[api.VerbApplied] = answer{hang: true} }, away},
		{"daemon that sends rubbish", func(f *fixture) { f.reply[api.VerbAdd] = answer{raw: "HTTP/1.1 200 OK\r\n\r\n"} }, never},
		{"daemon that sends half a rule set", func(f *fixture) {
			f.reply[api.VerbAdd] = answer{verb: api.VerbRules, body: map[string]int{"ingress": 1}}
		}, never},
		{"daemon that answers another question", func(f *fixture) { f.reply[api.VerbAdd] = answer{verb: api.VerbDone, body: struct{}{}} }, never},
		{"daemon that refuses", func(f *fixture) { f.reply[api.VerbAdd] = refuse(api.CodeInvalid, "a Kata guest") }, never},
		{"daemon that can't confirm", func(f *fixture) { f.reply[api.VerbApplied] = refuse(api.CodeInternal, "disk is full") }, never},
		{"rules that can't be installed", func(f *fixture) { f.install.Fails = "kernel has no nftables" }, never},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			if tt.change(f); slices.ContainsFunc([]answer{f.reply[api.VerbAdd], f.reply[api.VerbApplied]}, func(a answer) bool { return a.hang }) {
				f.install.Patience = 100 * time.Millisecond
			}
			f.call(t, "ADD").mustFail(t, tt.code)
			f.conf["failurePolicy"] = "open"
			o := f.call(t, "ADD")
			if tt.code == never {
				o.mustFail(t, never)
				return
			}
			sameJSON(t, o.stdout, f.conf["prevResult"])
			if o.exit != 0 || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "shop/web starts without a firewall") {
				t.Errorf("exit status %d, stderr %q; want success and one line of warning", o.exit, o.stderr)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	f := setup(t)
	f.install.Fails = "kernel has no nftables"
	f.call(t, "ADD").mustFail(t, 999, "install rules of shop/web on eth0 in "+f.pod.Path(), "kernel has no nftables")
	f.mustGet(t, nil, api.VerbAdd) // and not that they were applied
	f.stop()
	f.call(t, "ADD").mustFail(t, 11, "podwalld is not available", f.socket)
}

// A container's id may be added again while its deletion waits for the daemon.
func TestAddCancelsAQueuedDeletion(t *testing.T) {
	f := setup(t)
	dir := queue.Dir(f.socket)
	for _, k := range []api.Key{{ContainerID: f.env["CNI_CONTAINERID"], Interface: "eth0"}, {ContainerID: "other", Interface: "eth0"}} {
		if err := queue.Push(dir, k); err != nil {
			t.Fatal(err)
		}
	}
	f.call(t, "ADD").mustSucceed(t)
	if got := f.queued(t); len(got) != 1 || got[0].ContainerID != "other" {
		t.Errorf("queued after ADD: %v, want only the other container's", got)
	}
}

func TestPreviousResultOfAnotherVersion(t *testing.T) {
	f := setup(t)
	prev := result1(f.pod.Path())
	delete(prev, "vendor")
	tests := []struct{ from, to string }{{"", "0.3.1"}, {"0.4.0", "1.0.0"}, {"1.0.0", "0.4.0"}, {"1.0.0", "1.1.0"}}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%q to %s", tt.from, tt.to), func(t *testing.T) {
			in, want := clone(prev), clone(prev)
			if in["cniVersion"] = tt.from; tt.from == "" {
				delete(in, "cniVersion")
			}
			want["cniVersion"] = tt.to
			if tt.to == "0.4.0" { // where addresses say their version, and CNI's own type has a dns
				want["dns"] = map[string]any{}
				want["ips"] = []any{
					map[string]any{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 2},
					map[string]any{"version": "6", "address": "fd00::2/64", "interface": 2},
				}
			}
			f.conf["cniVersion"], f.conf["prevResult"] = tt.to, in
			o := f.call(t, "ADD")
			o.mustSucceed(t)
			sameJSON(t, o.stdout, want)
		})
	}
}
