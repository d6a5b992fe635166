package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/ruleset"
)

const (
	chainedConfig = `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"podwall","namespace":"strays"}]}`
	plainConfig   = `{"cniVersion":"1.0.0","name":"podwall","plugins":[{"type":"bridge","bridge":"podwall"}]}`
)

// ofShop are the CNI arguments of shop/web.
var ofShop = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web"}, {"K8S_POD_UID", "u1"}}

// An object is the JSON of an entry, which tests change.
type object = map[string]any

// cached is the entry of shop/web on eth0 of a network that podwall is in.
func cached(netns string) object {
	return object{
		"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
		"config": []byte(chainedConfig), "cniArgs": ofShop, "netns": netns,
		"result": object{"cniVersion": "1.0.0",
			"interfaces": []object{{"name": "cni0"}, {"name": "eth0", "sandbox": netns}},
			"ips":        []object{{"address": "10.0.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}},
		},
	}
}

// with is an entry with other fields; a nil removes one.
func with(e object, fields object) object {
	for name, v := range fields {
		if v == nil {
			delete(e, name)
		} else {
			e[name] = v
		}
	}
	return e
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "results"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "results", name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// finder is a Finder that knows nobody, in nodes where podwall is new.
func finder(dir string) Finder {
	return Finder{Dir: dir, Known: func(api.Key) bool { return false }, Tracked: func(int) bool { return false }}
}

func TestWhatIsAdopted(t *testing.T) {
	netns := netnstest.New(t).Path()
	web := api.Attachment{Key: api.Key{ContainerID: "c1", Interface: "eth0"}, Netns: netns, Network: "net",
		Namespace: "shop", Name: "web", UID: "u1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}}
	but := func(change func(*api.Attachment)) *api.Attachment {
		a := web
		change(&a)
		return &a
	}
	tests := []struct {
		name  string
		entry object
		want  *api.Attachment // nil: left alone, without an error
	}{
		{"a pod on a network with podwall", cached(netns), &web},
		{"the pod network of before podwall", with(cached(netns), object{"config": []byte(plainConfig)}), &web},
		{"another interface on a network with podwall", with(cached(netns), object{"ifName": "net1",
			"result": object{"cniVersion": "1.0.0", "interfaces": []object{{"name": "net1", "sandbox": netns}}, "ips": []object{{"address": "10.0.0.2/24", "interface": 0}}}}),
			but(func(a *api.Attachment) { a.Interface, a.Addresses = "net1", web.Addresses[:1] })},
		{"another interface on a network without", with(cached(netns), object{"ifName": "net1", "config": []byte(plainConfig)}), nil},
		{"a container that is no pod, without podwall", with(cached(netns), object{"config": []byte(plainConfig), "cniArgs": nil}), nil},
		{"a container that is no pod, with podwall", with(cached(netns), object{"cniArgs": nil}),
			but(func(a *api.Attachment) { a.Namespace, a.Name, a.UID = "strays", "", "" })},
		{"a configuration that is one plugin", with(cached(netns), object{"config": []byte(`{"type":"podwall"}`), "cniArgs": nil}),
			but(func(a *api.Attachment) { a.Namespace, a.Name, a.UID = "default", "", "" })},
		{"a network whose pods may use raw sockets", with(cached(netns), object{"config": []byte(`{"plugins":[{"type":"podwall","rawSockets":"allow"}]}`)}),
			but(func(a *api.Attachment) { a.RawSockets = true })},
		{"one whose pods may not", with(cached(netns), object{"config": []byte(`{"plugins":[{"type":"bridge","rawSockets":"allow"},{"type":"podwall","rawSockets":"deny"}]}`)}), &web},
		{"a namespace that only the result names", with(cached(netns), object{"netns": nil}), &web},
		{"a pod that is gone", cached("/run/netns/none-of-ours"), nil},
		{"addresses of no interface", with(cached(netns), object{"result": object{"cniVersion": "1.0.0",
			"ips": []object{{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}}}}), &web},
		{"addresses of the node's end", with(cached(netns), object{"result": object{"cniVersion": "1.0.0",
			"interfaces": []object{{"name": "eth0"}, {"name": "eth0", "sandbox": netns}},
			"ips":        []object{{"address": "192.0.2.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}}}}), &web},
		{"a result of version 0.2.0", with(cached(netns), object{"result": object{"cniVersion": "0.2.0", "ip4": object{"ip": "10.0.0.2/24"}, "ip6": object{"ip": "fd00::2/64"}}}), &web},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "net-c1-eth0", marshal(t, tt.entry))
			records, err := finder(dir).Find(time.Now())
			if err != nil {
				t.Errorf("Find: %v", err)
			}
			var got, want []api.Attachment
			for _, r := range records {
				got = append(got, r.Attachment)
			}
			if tt.want != nil {
				want = append(want, *tt.want)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("adopted (-want +got):\n%s", diff)
			}
		})
	}
}

// What can't be read is named, and keeps nobody else out.
func TestRubbishIsReported(t *testing.T) {
	netns := netnstest.New(t).Path()
	tests := []struct {
		name    string
		content []byte
		want    string
	}{
		{"no JSON", []byte("\x00rubbish"), "invalid character"},
		{"an empty file", nil, "unexpected end"},
		{"a file of 2 MB", []byte(strings.Repeat(" ", 2<<20)), "more than 1048576 bytes"},
		{"an entry of an older kind", []byte(`{"cniVersion":"0.3.1","ips":[]}`), `kind ""`},
		{"a container with a path", marshal(t, with(cached(netns), object{"containerId": "../../etc"})), "containerID"},
		{"an interface with a slash", marshal(t, with(cached(netns), object{"ifName": "a/b"})), "interface"},
		{"no result", marshal(t, with(cached(netns), object{"result": nil})), "result: missing"},
		{"a result of a version that nobody knows", marshal(t, with(cached(netns), object{"result": object{"cniVersion": "9.9.9"}})), "result"},
		{"a result with holes", marshal(t, with(cached(netns), object{"result": object{"cniVersion": "1.0.0", "ips": []any{nil}, "interfaces": []any{nil}}})), ""},
		{"no namespace anywhere", marshal(t, with(cached(""), object{"netns": nil})), "netns: missing"},
		{"the node's namespace", marshal(t, cached("/proc/self/ns/net")), "the node's own"},
		{"a namespace that is a file", marshal(t, cached("/etc/passwd")), "not a network namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a-rubbish-eth0", tt.content)
			write(t, dir, "net-c2-eth0", marshal(t, with(cached(netns), object{"containerId": "c2"})))
			records, err := finder(dir).Find(time.Now())
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), "a-rubbish-eth0") || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Find: %v, want the file's name and %q", err, tt.want)
			}
			if n := len(records); n == 0 || records[n-1].ContainerID != "c2" {
				t.Errorf("%d records, want that of the good entry", n)
			}
		})
	}
}

// A pipe in the place of a file, or of a namespace, does not hold the daemon up.
func TestPipesAreNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	write(t, dir, "net-c1-eth0", marshal(t, cached(pipe)))
	for _, path := range []string{pipe, filepath.Join(dir, "results", "b-pipe-eth0")} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, err := finder(dir).Find(time.Now())
	if len(records) != 0 || err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("%d records, %v; want two errors", len(records), err)
	}
}

func TestNoCache(t *testing.T) {
	if records, err := finder(filepath.Join(t.TempDir(), "none")).Find(time.Now()); len(records) != 0 || err != nil {
		t.Errorf("without a cache: %v, %v", records, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "results"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := finder(dir).Find(time.Now()); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a cache that is a file: %v", err)
	}
}

// A pod whose table stands was tracked all the time: nothing of it is older than
// its rules.
func TestTrackedPodsAreNotNew(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	write(t, dir, "net-c1-eth0", marshal(t, cached(ns.Path())))
	now := time.Unix(1e9, 0)
	for tracked, want := range map[bool]ruleset.Adoption{true: ruleset.NotAdopted, false: ruleset.AdoptedNow} {
		f := finder(dir)
		f.Tracked = func(int) bool { return tracked }
		records, err := f.Find(now)
		if err != nil || len(records) != 1 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		r := records[0]
		if r.Adopted != want || r.AdoptedAt.Equal(now) == tracked || r.NetnsID.Inode != ns.Inode(t) || r.Revision != "" {
			t.Errorf("tracked %v: record %+v", tracked, r)
		}
	}
}

// What the Keeper knows costs no look at its namespace.
func TestKnownAreSkipped(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	for i := range 3 {
		write(t, dir, fmt.Sprintf("net-c%d-eth0", i), marshal(t, with(cached(ns.Path()), object{"containerId": fmt.Sprint("c", i)})))
	}
	f := finder(dir)
	f.Known = func(key api.Key) bool { return key.ContainerID != "c1" }
	looked := 0
	f.Tracked = func(int) bool { looked++; return true }
	records, err := f.Find(time.Now())
	if err != nil || len(records) != 1 || looked != 1 {
		t.Errorf("%d records after %d looks, %v; want one and one", len(records), looked, err)
	}
}

func FuzzEntry(f *testing.F) {
	for _, e := range []object{cached("/run/netns/a"), with(cached("/run/netns/a"), object{"netns": nil}), {"kind": "cniCacheV1"}} {
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"cniCacheV1","containerId":"a","ifName":"eth0","result":{"cniVersion":"1.0.0","ips":[null],"interfaces":[null]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		e, err := parse(content)
		if err != nil {
			return
		}
		e.wanted()
		a, err := e.attachment()
		if err != nil {
			return
		}
		if a.Netns == "" || a.Namespace == "" || a.ContainerID == "" {
			t.Errorf("attachment without a namespace or a key: %+v", a)
		}
		for _, addr := range a.Addresses {
			if !addr.IsValid() || addr.Is4In6() {
				t.Errorf("address %s", addr)
			}
		}
	})
}
