package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// A Network is a CNI network: a bridge on the node, and plugins chained behind
// it. Copies may be changed freely.
type Network struct {
	Name       string
	CNIVersion string
	Bridge     string
	Ranges     []netip.Prefix
	Default    bool  // the pods' default route leads here
	Hairpin    bool  // the bridge sends frames back to the pod they came from
	Chained    []any // further plugins' entries, marshalled to JSON
	dir        string
}

// Network returns the node's pod network, with podwall last in the chain.
func (n *Node) Network() Network {
	return Network{
		Name:       "pods",
		CNIVersion: "1.1.0",
		Bridge:     "cni0",
		Ranges:     []netip.Prefix{PodNet4, PodNet6},
		Default:    true,
		Chained:    []any{n.Podwall()},
		dir:        n.Dir,
	}
}

// SecondNetwork returns another network for further interfaces of a pod.
func (n *Node) SecondNetwork() Network {
	net := n.Network()
	net.Name, net.Bridge, net.Default = "storage", "cni1", false
	net.Ranges = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("fd00:2::/64")}
	return net
}

// Podwall is the entry of podwall in a chain.
func (n *Node) Podwall() map[string]any {
	return map[string]any{"type": "podwall", "socket": n.Socket()}
}

// WithChain returns the network with other plugins behind the bridge.
func (net Network) WithChain(entries ...any) Network {
	net.Chained = slices.Clone(entries)
	return net
}

// WithVersion returns the network in another version of the specification.
func (net Network) WithVersion(v string) Network {
	net.CNIVersion = v
	return net
}

// Conflist is the network as people write it into a file.
func (net Network) Conflist() ([]byte, error) {
	var ranges [][]map[string]any
	var routes []map[string]any
	for _, r := range net.Ranges {
		ranges = append(ranges, []map[string]any{{"subnet": r}})
		if net.Default {
			routes = append(routes, map[string]any{"dst": netip.PrefixFrom(zero(r.Addr()), 0)})
		}
	}
	bridge := map[string]any{
		"type": "bridge", "bridge": net.Bridge, "isGateway": true, "hairpinMode": net.Hairpin,
		"capabilities": map[string]any{"ips": true},
		"ipam": map[string]any{
			"type": "host-local", "ranges": ranges, "routes": routes,
			"dataDir": filepath.Join(net.dir, "ipam"),
		},
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": net.CNIVersion, "name": net.Name,
		"plugins": append([]any{bridge}, net.Chained...),
	}, "", "  ")
}

// zero is 0.0.0.0 or ::.
func zero(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// list is the network as libcni wants it.
func (net Network) list() (*libcni.NetworkConfigList, error) {
	b, err := net.Conflist()
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", net.Name, err)
	}
	return list, nil
}
