package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Config says what cluster is wanted. The zero Config is two nodes on IPv4,
// with kube-proxy in nftables mode and Debian's containerd.
type Config struct {
	Nodes      int        // 2
	Families   []Family   // the first is the primary one; IPv4 alone
	Proxy      string     // kube-proxy's mode: nftables or iptables
	Containerd Containerd // which runtime the nodes have
	CNIVersion string     // of the conflist; 1.0.0
	Podwall    Podwall    // how it comes to the nodes; by its manifests
	Product    string     // the directory with podwall's bin and install; the repository
}

// A Family is one of the families of addresses that a cluster has, in
// Kubernetes' words.
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// A Containerd is a version of it.
type Containerd string

// The versions: Debian 12's and the one built from its module.
const (
	Containerd16 Containerd = "1.6"
	Containerd2  Containerd = "2.3"
)

// A Podwall is a way to install it.
type Podwall string

const (
	// Manifests is how people do it: the image in every node's runtime, and
	// kubectl apply -k.
	Manifests Podwall = "manifests"
	// Direct starts podwalld as a process of the node and writes the chain with
	// podwall in it, without an installer.
	Direct Podwall = "direct"
	// Absent is a cluster without podwall, which enforces nothing.
	Absent Podwall = "absent"
)

// withDefaults fills in what is not said.
func (c Config) withDefaults() Config {
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if len(c.Families) == 0 {
		c.Families = []Family{IPv4}
	}
	if c.Proxy == "" {
		c.Proxy = "nftables"
	}
	if c.Containerd == "" {
		c.Containerd = Containerd16
	}
	if c.CNIVersion == "" {
		c.CNIVersion = "1.0.0"
	}
	if c.Podwall == "" {
		c.Podwall = Manifests
	}
	return c
}

// check finds what no cluster can be made of.
func (c Config) check() error {
	var errs []error
	oneOf := func(field, value string, values ...string) {
		if !slices.Contains(values, value) {
			errs = append(errs, fmt.Errorf("%s %q: want one of %s", field, value, strings.Join(values, ", ")))
		}
	}
	if c.Nodes < 1 || c.Nodes > 9 {
		errs = append(errs, fmt.Errorf("nodes %d: want 1 to 9", c.Nodes))
	}
	for _, f := range c.Families {
		oneOf("family", string(f), string(IPv4), string(IPv6))
	}
	oneOf("proxy", c.Proxy, "nftables", "iptables")
	oneOf("containerd", string(c.Containerd), string(Containerd16), string(Containerd2))
	oneOf("podwall", string(c.Podwall), string(Manifests), string(Direct), string(Absent))
	return errors.Join(errs...)
}

// Equal says whether both describe the same cluster.
func (c Config) Equal(o Config) bool {
	return c.withDefaults().String() == o.withDefaults().String()
}

// String is a short description, in one line.
func (c Config) String() string {
	c = c.withDefaults()
	return fmt.Sprintf("%d nodes, %s, kube-proxy %s, containerd %s with CNI %s, podwall %s",
		c.Nodes, joined(c.Families, "+"), c.Proxy, c.Containerd, c.CNIVersion, c.Podwall)
}

// The addresses of every cluster. Clusters don't see each other, so they may all
// have the same.

// control is the address of the control plane's machine.
func (f Family) control() netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr("fd00:77::1")
	}
	return netip.MustParseAddr("10.77.0.1")
}

// node is the address of the i-th node; they are counted from 1.
func (f Family) node(i int) netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:77::1%d", i))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.77.0.1%d", i))
}

// bits is the length of the prefix of the machines' network.
func (f Family) bits() int {
	if f == IPv6 {
		return 64
	}
	return 24
}

// pods is the network of the pods on the i-th node.
func (f Family) pods(i int) netip.Prefix {
	if f == IPv6 {
		return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", i))
	}
	return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))
}

// cluster is the network that all pods' addresses are from.
func (f Family) cluster() netip.Prefix {
	if f == IPv6 {
		return netip.MustParsePrefix("fd00:244::/48")
	}
	return netip.MustParsePrefix("10.244.0.0/16")
}

// services is the network of the ClusterIPs.
func (f Family) services() netip.Prefix {
	if f == IPv6 {
		return netip.MustParsePrefix("fd00:96::/112")
	}
	return netip.MustParsePrefix("10.96.0.0/16")
}

// anywhere is the default route.
func (f Family) anywhere() netip.Prefix {
	if f == IPv6 {
		return netip.MustParsePrefix("::/0")
	}
	return netip.MustParsePrefix("0.0.0.0/0")
}

// each joins what f gives for every family of the cluster.
func each[T fmt.Stringer](c Config, f func(Family) T) string {
	var all []string
	for _, family := range c.Families {
		all = append(all, f(family).String())
	}
	return strings.Join(all, ",")
}

func joined[T ~string](s []T, sep string) string {
	var all []string
	for _, x := range s {
		all = append(all, string(x))
	}
	return strings.Join(all, sep)
}

// Outside is an address that belongs to no node and no pod: the control plane's
// machine, from which traffic reaches nodes as a client's would.
func (c Config) Outside(f Family) netip.Addr { return f.control() }
