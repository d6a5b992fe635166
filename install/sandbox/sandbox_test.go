package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
)

// A plugin answers every ADD with the same result, so that libcni itself writes
// the cache.
type plugin struct{ version.PluginDecoder }

func (*plugin) FindInPath(name string, _ []string) (string, error) { return name, nil }

func (*plugin) ExecPlugin(_ context.Context, _ string, _ []byte, env []string) ([]byte, error) {
	for _, e := range env {
		if ns, ok := strings.CutPrefix(e, "CNI_NETNS="); ok {
			return []byte(`{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "` + ns + `"}]}`), nil
		}
	}
	return nil, os.ErrInvalid
}

// add has libcni add a sandbox.
func add(t *testing.T, cache, network, id, netns string, plugins string) {
	t.Helper()
	l, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion": "1.0.0", "name": "` + network + `", "plugins": ` + plugins + `}`))
	if err != nil {
		t.Fatal(err)
	}
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", id}}}
	if _, err := libcni.NewCNIConfigWithCacheDir(nil, cache, &plugin{}).AddNetworkList(t.Context(), l, rt); err != nil {
		t.Fatal(err)
	}
}

const (
	with    = `[{"type": "bridge"}, {"type": "podwall"}]`
	without = `[{"type": "bridge"}]`
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	cache := filepath.Join(root, "cache")
	if err := os.MkdirAll(filepath.Join(root, "run/netns/alive"), 0o755); err != nil {
		t.Fatal(err)
	}
	add(t, cache, "a", "living", "/run/netns/alive", with)
	add(t, cache, "a", "dead", "/run/netns/dead", with)
	add(t, cache, "a", "dead-process", "/proc/0/ns/net", with)
	add(t, cache, "b", "without", "/run/netns/alive", without)
	add(t, cache, "a", "hidden", "/var/run/netns/x", with)
	add(t, cache, "m", "meta", "/run/netns/alive", `[{"type": "multus", "delegates": [{"name": "a", "plugins": `+with+`}]}]`)
	for name, text := range map[string]string{"rubbish": "podwall{", "other-rubbish": "{"} {
		if err := os.WriteFile(filepath.Join(cache, "results", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Find(cache, root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.String())
	}
	want := []string{
		"shop/hidden (eth0 on a): network namespace /var/run/netns/x: its directory is not visible here; mount it, or say with --host-root where the node's files are",
		"shop/living (eth0 on a)",
		"shop/meta (eth0 on m)",
		"container rubbish: its entry in libcni's cache can't be read",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Versions of libcni before 1.2 cache the namespace only in the result.
func TestFindInOldCache(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "results"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "a", "config": "eyJwbHVnaW5zIjpbeyJ0eXBlIjoicG9kd2FsbCJ9XX0=",
		"result": {"cniVersion": "0.4.0", "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/proc/self/ns/net"}]}}`
	if err := os.WriteFile(filepath.Join(root, "results", "a-c1-eth0"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := Find(root, "/")
	if err != nil || len(all) != 1 || all[0].Netns != "/proc/self/ns/net" || all[0].Doubt != "" {
		t.Errorf("%v, %+v", err, all)
	}
}

func TestNoCache(t *testing.T) {
	if all, err := Find(t.TempDir(), "/"); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}
