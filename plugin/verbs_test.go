package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/queue"
)

func TestCheck(t *testing.T) {
	f := setup(t)
	o := f.call(t, "CHECK")
	o.mustSucceed(t)
	if o.stdout != "" {
		t.Errorf("stdout %q, want nothing", o.stdout)
	}
	var a api.Attachment
	m := f.mustGet(t, &a, api.VerbCheck)
	if a.Key.String() != "4f8c01234567/eth0" || a.Pod() != "shop/web" || m.netns != f.pod.Inode(t) {
		t.Errorf("asked about %+v in %d", a, m.netns)
	}
	if _, ok := f.applied(t); ok {
		t.Error("CHECK installed rules")
	}
	f.reply[api.VerbCheck] = refuse(api.CodeInternal, "chain eth0/ingress is missing")
	f.call(t, "CHECK").mustFail(t, 999, "chain eth0/ingress is missing")
	f.stop()
	f.conf["failurePolicy"] = "open" // which is for ADD
	f.call(t, "CHECK").mustFail(t, 11, "not available")
}

func TestDelTellsTheDaemon(t *testing.T) {
	f := setup(t)
	want := api.Key{ContainerID: "4f8c0123456789", Interface: "eth0"}
	tests := []struct {
		name   string
		change func()
	}{
		{"once", func() {}},
		{"twice", func() {}},
		{"of what it doesn't know", func() { f.reply[api.VerbDel] = refuse(api.CodeNotFound, "no such attachment") }},
		{"without namespace", func() { f.env["CNI_NETNS"] = "" }},
		{"with a namespace that is gone", func() { f.env["CNI_NETNS"] = "/run/netns/gone" }},
		{"with the node's own namespace", func() { f.env["CNI_NETNS"] = "/proc/self/ns/net" }},
		{"without result", func() { delete(f.conf, "prevResult") }},
		{"with a result that is none", func() { f.conf["prevResult"] = 5 }},
		{"with arguments that are wrong", func() { f.env["CNI_ARGS"] = "K8S_POD_NAME=a/b" }},
		{"without path", func() { f.env["CNI_PATH"] = "" }},
		{"of an unknown version", func() { f.conf["cniVersion"] = "9.9.9" }},
	}
	for _, tt := range tests { // each keeps what the ones before it changed
		t.Run(tt.name, func(t *testing.T) {
			tt.change()
			o := f.call(t, "DEL")
			o.mustSucceed(t)
			var got api.Key
			if f.mustGet(t, &got, api.VerbDel); got != want || o.stdout != "" {
				t.Errorf("told %v with stdout %q, want %v and nothing", got, o.stdout, want)
			}
		})
	}
	if got := f.queued(t); got != nil {
		t.Errorf("queued %v, though the daemon was told", got)
	}
}

func TestDelWithoutDaemonIsQueued(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fixture)
	}{
		{"away", func(f *fixture) { f.stop() }},
		{"hangs", func(f *fixture) {
			f.reply[api.VerbDel] = answer{hang: true}
			f.install.Patience = 50 * time.Millisecond
		}},
		{"hangs up", func(f *fixture) { f.reply[api.VerbDel] = answer{} }},
		{"fails", func(f *fixture) { f.reply[api.VerbDel] = refuse(api.CodeInternal, "disk is full") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			tt.change(f)
			for range 2 {
				o := f.call(t, "DEL")
				o.mustSucceed(t)
				if o.stdout != "" {
					t.Errorf("stdout %q, want nothing", o.stdout)
				}
			}
			want := []api.Key{{ContainerID: "4f8c0123456789", Interface: "eth0"}}
			if got := f.queued(t); !reflect.DeepEqual(got, want) {
				t.Errorf("queued %v, want %v", got, want)
			}
		})
	}
}

// The worst that a DEL does is a line on stderr.
func TestDelNeverFails(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fixture)
		say    string
	}{
		{"configuration with a wrong field", func(f *fixture) { f.conf["failurePolicy"] = "opne" }, "field failurePolicy"},
		{"no container", func(f *fixture) { f.stop(); f.env["CNI_CONTAINERID"] = "" }, "no container id"},
		{"daemon that refuses for good", func(f *fixture) { f.reply[api.VerbDel] = refuse(api.CodeInvalid, "no such interface") }, "no such interface"},
		{"no daemon and no room for the queue", func(f *fixture) {
			f.stop()
			if err := os.WriteFile(queue.Dir(f.socket), nil, 0o600); err != nil {
				panic(err)
			}
		}, "queue deletion of 4f8c01234567/eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			tt.change(f)
			o := f.call(t, "DEL")
			if o.exit != 0 || o.stdout != "" {
				t.Errorf("exit status %d, stdout %q; want success and nothing", o.exit, o.stdout)
			}
			if strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, tt.say) {
				t.Errorf("stderr %q, want a line that says %q", o.stderr, tt.say)
			}
		})
	}
}

// A configuration that can't be read at all means the default socket. The test
// has a /run of its own.
func TestDelOfRubbishIsQueuedAtTheDefault(t *testing.T) {
	how, err := json.Marshal(installation{Patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := `mount -t tmpfs tmpfs /run && echo rubbish | "$0" && cp -r /run/podwall/deleted "$1"`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", script, os.Args[0], filepath.Join(dir, "deleted"))
	cmd.Env = append(os.Environ(), asPlugin+"="+string(how), "CNI_COMMAND=DEL", "CNI_CONTAINERID=4f8c", "CNI_IFNAME=eth0")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "configuration") {
		t.Fatalf("%v: %s; want success and a complaint about the configuration", err, out)
	}
	var got []api.Key
	_ = queue.Drain(filepath.Join(dir, "deleted"), func(k api.Key) error { got = append(got, k); return nil })
	if want := []api.Key{{ContainerID: "4f8c", Interface: "eth0"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("queued %v, want %v", got, want)
	}
}

func TestGC(t *testing.T) {
	f := setup(t)
	delete(f.conf, "prevResult")
	f.env = map[string]string{"CNI_PATH": "/opt/cni/bin"}
	tests := []struct {
		name  string
		valid any
		want  []api.Key
	}{
		{"two exist", []any{
			map[string]string{"containerID": "a", "ifname": "eth0"},
			map[string]string{"containerID": "a", "ifname": "net1"},
		}, []api.Key{{ContainerID: "a", Interface: "eth0"}, {ContainerID: "a", Interface: "net1"}}},
		{"none exists", []any{}, []api.Key{}},
		{"none exists, in libcni's words", nil, []api.Key{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.conf["cni.dev/valid-attachments"], f.conf["cni.dev/attachments"] = tt.valid, tt.valid
			f.call(t, "GC").mustSucceed(t)
			var got api.GC
			if f.mustGet(t, &got, api.VerbGC); got.Network != "k8s" || !reflect.DeepEqual(got.Valid, tt.want) {
				t.Errorf("told %+v, want %v of network k8s", got, tt.want)
			}
		})
	}
	delete(f.conf, "cni.dev/valid-attachments")
	f.call(t, "GC").mustFail(t, 7, "cni.dev/valid-attachments: missing")
	f.mustGet(t, nil)
	f.conf["cni.dev/valid-attachments"] = []any{}
	f.stop()
	f.call(t, "GC").mustFail(t, 11)
}

func TestStatus(t *testing.T) {
	f := setup(t)
	delete(f.conf, "prevResult")
	f.env = map[string]string{"CNI_PATH": "/opt/cni/bin"}
	f.call(t, "STATUS").mustSucceed(t)
	f.mustGet(t, nil, api.VerbReady)
	f.reply[api.VerbReady] = refuse(api.CodeUnavailable, "no policy yet")
	f.call(t, "STATUS").mustFail(t, 50, "no policy yet")
	f.stop()
	f.call(t, "STATUS").mustFail(t, 50, f.socket)
	f.conf["sockte"] = "x"
	f.call(t, "STATUS").mustFail(t, 2, "sockte")
}

// Below the version that has a verb, the plugin doesn't know it.
func TestVerbsHaveVersions(t *testing.T) {
	f := setup(t)
	for verb, last := range map[string]string{"CHECK": "0.3.1", "GC": "1.0.0", "STATUS": "1.0.0"} {
		f.conf["cniVersion"] = last
		f.call(t, verb).mustFail(t, 1, verb)
	}
	f.call(t, "PAINT").mustFail(t, 4, "PAINT")
	f.mustGet(t, nil)
}

func TestVersion(t *testing.T) {
	f := setup(t)
	o := f.call(t, "VERSION")
	o.mustSucceed(t)
	var v struct {
		Supported []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil {
		t.Fatal(err)
	}
	if want := []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}; !reflect.DeepEqual(v.Supported, want) {
		t.Errorf("supports %v, want %v", v.Supported, want)
	}
	f.env = nil
	if o := f.call(t, ""); o.exit != 0 || !strings.Contains(o.stderr, "CNI plugin podwall") {
		t.Errorf("without a command: exit status %d, %q; want what this is", o.exit, o.stderr)
	}
}
