package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/containernetworking/cni/pkg/invoke"
)

// The addresses of every node; nodes don't see each other. Pods get the rest of
// PodNet4 and PodNet6.
var (
	PodNet4 = netip.MustParsePrefix("10.1.0.0/24")
	PodNet6 = netip.MustParsePrefix("fd00:1::/64")
	// Gateway4 and Gateway6 are the node's on its bridge.
	Gateway4 = netip.MustParseAddr("10.1.0.1")
	Gateway6 = netip.MustParseAddr("fd00:1::1")
	// Uplink4 and Uplink6 are the node's towards the world, Second4 and Second6
	// further ones on the same interface.
	Uplink4 = netip.MustParseAddr("192.0.2.2")
	Uplink6 = netip.MustParseAddr("2001:db8:2::2")
	Second4 = netip.MustParseAddr("192.0.2.3")
	Second6 = netip.MustParseAddr("2001:db8:2::3")
	// World4 and World6 are the world's end of the uplink.
	World4 = netip.MustParseAddr("192.0.2.1")
	World6 = netip.MustParseAddr("2001:db8:2::1")
)

// A Node is a Kubernetes node: a network namespace with an uplink to the World,
// and a directory with all its files. Its methods may be called from any
// goroutine, those of podwalld one at a time.
type Node struct {
	*Netns
	World *Netns // with whatever addresses AddWorld gave it
	Name  string
	Dir   string // everything the node keeps on its disk

	// Exec runs the plugins for libcni; nil is libcni's own way.
	Exec invoke.Exec
	// Before is put before podwalld's command line, for a program that changes
	// what it runs in and then becomes podwalld.
	Before []string

	bin, cni string // directories of the binaries
	cache    string // libcni's
	state    string // podwalld's
	socket   string // podwalld's
	daemon   *exec.Cmd
	exited   chan struct{} // closed when daemon has ended
	sandbox  atomic.Int64  // numbers the sandboxes
}

// A NodeOption changes how NewNode makes a node.
type NodeOption func(*Node)

// StateOn makes podwalld keep its state in a directory that exists, for
// measurements on a real disk. The private machine's own /run is in memory.
func StateOn(dir string) NodeOption { return func(n *Node) { n.state = dir } }

// SocketAt makes plugins and tools look for podwalld's socket at a path of its
// own, which one node may use at a time.
func SocketAt(path string) NodeOption { return func(n *Node) { n.socket = path } }

// NewNode makes a node without podwalld, pods and manifests. Names of nodes are
// unique; capitals become small, as Kubernetes has them. The caller closes it.
func NewNode(name string, options ...NodeOption) (*Node, error) {
	name = strings.ToLower(name)
	n := &Node{Name: name, Dir: filepath.Join("/run/node", name)}
	n.cache, n.state = filepath.Join(n.Dir, "cni"), filepath.Join(n.Dir, "state")
	n.socket = filepath.Join(n.Dir, "podwalld.sock")
	for _, o := range options {
		o(n)
	}
	var err error
	if n.bin, err = binaries(); err != nil {
		return nil, err
	}
	if n.cni, err = cachedPlugins(); err != nil {
		return nil, err
	}
	for _, dir := range []string{n.Dir, n.Manifests(), n.cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := n.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("make node %s: %w", name, err), n.Close())
	}
	return n, nil
}

// wire makes the two namespaces and the uplink between them.
func (n *Node) wire() (err error) {
	if n.Netns, err = newNetns(n.Name); err != nil {
		return err
	}
	if n.World, err = newNetns(n.Name + "-world"); err != nil {
		return err
	}
	if _, err := n.RunErr(fmt.Sprintf(`
		ip link add eth0 type veth peer name eth0 netns %s
		ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad
		ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad
		ip link set eth0 up
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding`,
		filepath.Base(n.World.Path()), Uplink4, Uplink6, Second4, Second6)); err != nil {
		return err
	}
	if _, err := n.World.RunErr(fmt.Sprintf(`
		ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad
		ip link set eth0 up
		ip route add %s via %s; ip -6 route add %s via %s`,
		World4, World6, PodNet4, Uplink4, PodNet6, Uplink6)); err != nil {
		return err
	}
	_, err = n.RunErr(fmt.Sprintf("ip route add default via %s; ip -6 route add default via %s", World4, World6))
	return err
}

// AddWorld gives the world further addresses: other nodes, their pods, hosts of
// the internet.
func (n *Node) AddWorld(addrs ...netip.Addr) error {
	for _, a := range addrs {
		add := fmt.Sprintf("ip addr add %s dev lo", netip.PrefixFrom(a, a.BitLen()))
		if a.Is6() {
			add += " nodad" // usable when the command returns
		}
		if _, err := n.World.RunErr(add); err != nil {
			return err
		}
	}
	return nil
}

// Close ends podwalld and removes the node's namespaces and files. Sandboxes are
// deleted by whoever made them, or with the machine.
func (n *Node) Close() error {
	errs := []error{n.Kill()}
	for _, ns := range []*Netns{n.Netns, n.World} {
		if ns != nil {
			errs = append(errs, ns.Delete())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(n.Dir))...)
}

// Manifests is the directory that podwalld reads policy from.
func (n *Node) Manifests() string { return filepath.Join(n.Dir, "manifests") }

// Socket is where podwalld listens.
func (n *Node) Socket() string { return n.socket }

// Binary is the path of one of the programs under test.
func (n *Node) Binary(name string) string { return filepath.Join(n.bin, name) }

// CNICache is where libcni keeps what it did.
func (n *Node) CNICache() string { return n.cache }

// StateDir is where podwalld keeps its database.
func (n *Node) StateDir() string { return n.state }

// WriteManifest puts a file into the directory of manifests, whole or not at all.
func (n *Node) WriteManifest(name, content string) error {
	tmp := filepath.Join(n.Dir, name+".tmp") // the same file system, not the same directory
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(n.Manifests(), name))
}

// RemoveManifest removes a file from the directory of manifests.
func (n *Node) RemoveManifest(name string) error {
	return os.Remove(filepath.Join(n.Manifests(), name))
}

// Policyctl runs policyctl on the node and returns what it printed.
func (n *Node) Policyctl(ctx context.Context, args ...string) (string, error) {
	return n.Output(ctx, filepath.Join(n.bin, "policyctl"), append([]string{"--socket", n.Socket()}, args...)...)
}

// Rules is what nft prints about a sandbox's namespace.
func Rules(ctx context.Context, sb *Sandbox) (string, error) {
	out, err := sb.Output(ctx, "nft", "list", "ruleset")
	return strings.TrimRight(out, "\n"), err
}
