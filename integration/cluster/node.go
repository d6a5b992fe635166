package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// A Node is a machine with a container runtime, a kubelet and kube-proxy, which
// run under the names containerd, kubelet and proxy.
type Node struct {
	*Machine
	Index int // from 1

	cluster *Cluster
}

// onNodeDisk are the directories of a node that outlive a reboot.
var onNodeDisk = []string{"/etc/cni/net.d", "/etc/podwall", "/opt/cni/bin", "/opt/containerd", "/var/lib/cni", "/var/lib/containerd",
	"/var/lib/kubelet", "/var/lib/podwall", "/var/log"}

// Address is the node's of one family.
func (n *Node) Address(f Family) netip.Addr { return f.node(n.Index) }

// Boot starts the machine, connects it and starts what runs on every node. The
// kubelet may not be ready yet when it returns.
func (n *Node) Boot(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return n.PowerOn() },
		func(ctx context.Context) error { return n.cluster.wireNode(ctx, n) },
		func(context.Context) error { return n.installPlugins() },
		n.StartRuntime,
		func(context.Context) error { return n.cluster.bootPodwall(n) },
		func(context.Context) error { return n.startKubernetes() },
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("boot %s: %w", n.Name, err)
		}
	}
	return nil
}

// installPlugins puts the reference plugins and the pod network's conflist where
// they belong, unless an earlier boot did.
func (n *Node) installPlugins() error {
	plugins, err := os.ReadDir(n.tools.Plugins())
	if err != nil {
		return err
	}
	for _, p := range plugins {
		from, to := filepath.Join(n.tools.Plugins(), p.Name()), filepath.Join(n.disk, "/opt/cni/bin", p.Name())
		if err := os.Link(from, to); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if _, err := os.Stat(n.conflist()); err == nil {
		return nil
	}
	return n.WriteConflist()
}

// conflist is the file of the pod network.
func (n *Node) conflist() string { return filepath.Join(n.disk, "/etc/cni/net.d/10-podnet.conflist") }

// WriteConflist writes the pod network's conflist as the primary CNI would,
// without podwall in it unless the node is to have it from the start.
func (n *Node) WriteConflist() error {
	type object map[string]any
	type list []any
	var ranges, routes list
	for _, f := range n.cluster.Families {
		ranges = append(ranges, list{object{"subnet": f.pods(n.Index).String()}})
		routes = append(routes, object{"dst": f.anywhere().String()})
	}
	plugins := list{
		object{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
			"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes}},
		object{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true},
	}
	if n.cluster.Podwall == Direct {
		plugins = append(plugins, object{"type": "podwall"})
	}
	text, err := json.MarshalIndent(object{"cniVersion": n.cluster.CNIVersion, "name": "podnet", "plugins": plugins}, "", "  ")
	if err != nil {
		return err
	}
	// Never half a file: the runtime watches the directory.
	next := n.conflist() + ".next"
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, n.conflist())
}

// StartRuntime starts containerd and gives it the images that it lacks.
func (n *Node) StartRuntime(ctx context.Context) error {
	config, path := runtime16, "/usr/bin:/usr/sbin:/bin:/sbin"
	if n.cluster.Containerd == Containerd2 {
		config, path = runtime2, filepath.Join(string(n.tools), "containerd2")+":"+path
	}
	file := filepath.Join(n.disk, "containerd.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	if err := n.Start("containerd", "env", "PATH="+path, "containerd", "-c", file); err != nil {
		return err
	}
	if err := n.cluster.Until(ctx, "containerd on "+n.Name, func(ctx context.Context) error {
		_, err := n.Exec(ctx, "ctr", "version")
		return err
	}); err != nil {
		return err
	}
	images, err := n.tools.Images()
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := n.Import(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Import gives the node's runtime the images of an archive.
func (n *Node) Import(ctx context.Context, archive string) error {
	_, err := n.Exec(ctx, "ctr", "-n", "k8s.io", "images", "import", archive)
	return err
}

// Crictl asks the node's runtime.
func (n *Node) Crictl(ctx context.Context, args ...string) (string, error) {
	const socket = "unix:///run/containerd/containerd.sock"
	return n.Exec(ctx, append([]string{"crictl", "-r", socket, "-i", socket}, args...)...)
}

// staticPods is where a kubelet finds pods that no API server knows of.
const staticPods = "/var/lib/kubelet/static"

// StaticPod has the kubelet run a pod of its own. Its name in the cluster is the
// pod's with the node's behind it.
func (n *Node) StaticPod(p Pod) error {
	return os.WriteFile(filepath.Join(n.disk, staticPods, p.Name+".json"), []byte(p.Manifest()), 0o644)
}

// startKubernetes starts the kubelet and kube-proxy.
func (n *Node) startKubernetes() error {
	var ips []netip.Addr
	for _, f := range n.cluster.Families {
		ips = append(ips, n.Address(f))
	}
	p, group := n.cluster.pki, n.cluster.cgroup(n)
	if err := errors.Join(makeCgroup(group), n.issue(ips), os.MkdirAll(filepath.Join(n.disk, staticPods), 0o755)); err != nil {
		return err
	}
	kubelet, err := n.writeConfig("kubelet", n.kubeletConfig(group))
	if err != nil {
		return err
	}
	proxy, err := n.writeConfig("proxy", n.proxyConfig())
	if err != nil {
		return err
	}
	return errors.Join(
		n.Start("kubelet", "kubelet", "--config="+kubelet, "--kubeconfig="+p.path(n.Name+".kubeconfig"), "--hostname-override="+n.Name,
			"--node-ip="+each(n.cluster.Config, n.Address), "--cert-dir=/var/lib/kubelet/pki", "--v=2"),
		n.Start("proxy", "kube-proxy", "--config="+proxy, "--v=2"))
}

// issue makes the kubelet's certificate and kubeconfig, once.
func (n *Node) issue(ips []netip.Addr) error {
	if _, err := os.Stat(n.cluster.pki.path(n.Name + ".kubeconfig")); err == nil {
		return nil
	}
	id := identity{name: "system:node:" + n.Name, group: "system:nodes", dns: []string{n.Name}, ips: ips}
	return n.cluster.pki.kubeconfig(n.Name, n.cluster.Server(), id)
}

// writeConfig writes a configuration in JSON, which is YAML. Equal text is not
// written again: kube-proxy ends when its file changes.
func (n *Node) writeConfig(name string, config map[string]any) (string, error) {
	file := filepath.Join(n.disk, name+".yaml")
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == string(text) {
		return file, nil
	}
	return file, os.WriteFile(file, text, 0o644)
}

func (n *Node) kubeletConfig(group string) map[string]any {
	type object = map[string]any
	p := n.cluster.pki
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": "::",
		"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": p.path("ca.crt")}},
		"authorization":            object{"mode": "Webhook"},
		"tlsCertFile":              p.path(n.Name + ".crt"),
		"tlsPrivateKeyFile":        p.path(n.Name + ".key"),
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + group,
		"failCgroupV1":             false,
		"failSwapOn":               false,
		// The kubelet can't tell how full a bind mount is.
		"localStorageCapacityIsolation": false,
		"evictionHard":                  object{"memory.available": "100Mi"},
		"clusterDNS":                    []string{n.cluster.Families[0].services().Addr().Next().Next().String()},
		"clusterDomain":                 "cluster.local",
		"resolvConf":                    "/dev/null",
		"staticPodPath":                 staticPods,
		"volumePluginDir":               "/var/lib/kubelet/plugins",
		"maxPods":                       200,
		"kubeAPIQPS":                    200, "kubeAPIBurst": 400,
		"nodeStatusUpdateFrequency": "4s",
		"serializeImagePulls":       false,
		"registerWithTaints":        n.cluster.taints(),
	}
}

func (n *Node) proxyConfig() map[string]any {
	return map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode":               n.cluster.Proxy,
		"clientConnection":   map[string]any{"kubeconfig": n.cluster.pki.path("proxy.kubeconfig")},
		"clusterCIDR":        each(n.cluster.Config, Family.cluster),
		"hostnameOverride":   n.Name,
		"bindAddress":        n.Address(n.cluster.Families[0]).String(),
		"conntrack":          map[string]any{"maxPerCore": 0},
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
	}
}

// The runtimes' configurations differ from the default in what this kind of
// computer needs (no CAP_SYS_RESOURCE, so no lower OOM scores) and in leaving out
// snapshotters that complain.
var (
	runtime16 = strings.TrimSpace(`
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
`)
	runtime2 = strings.TrimSpace(`
version = 3
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + pauseImage + `"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
`)
)
