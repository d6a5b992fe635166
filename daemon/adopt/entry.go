package adopt

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
)

// An entry is what libcni caches of one ADD.
type entry struct {
	Kind        string          `json:"kind"`
	ContainerID string          `json:"containerId"`
	Config      []byte          `json:"config"` // of the network, as base64
	IfName      string          `json:"ifName"`
	Network     string          `json:"networkName"`
	Netns       string          `json:"netns"` // older versions of libcni leave it to the result
	Args        [][2]string     `json:"cniArgs"`
	Result      json.RawMessage `json:"result"`
}

func parse(content []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(content, &e); err != nil {
		return e, err
	}
	if e.Kind != libcni.CNICacheV1 {
		return e, fmt.Errorf("kind %q: want %q; entries of older kinds do not say whose they are", e.Kind, libcni.CNICacheV1)
	}
	if err := reconcile.CheckKey(e.key()); err != nil {
		return e, err
	}
	return e, nil
}

func (e entry) key() api.Key { return api.Key{ContainerID: e.ContainerID, Interface: e.IfName} }

// arg returns one of the CNI arguments.
func (e entry) arg(name string) string {
	for _, a := range e.Args {
		if a[0] == name {
			return a[1]
		}
	}
	return ""
}

// wanted reports whether podwall should have the attachment.
func (e entry) wanted() bool {
	if e.podwall().Type != "" {
		return true
	}
	return e.IfName == firstInterface && e.arg("K8S_POD_NAME") != ""
}

// A plugin is what matters here of an entry in a network's list of plugins.
type plugin struct {
	Type       string `json:"type"`
	Namespace  string `json:"namespace"`
	RawSockets string `json:"rawSockets"`
}

// podwall returns the network's entry of podwall. Without one it is empty.
func (e entry) podwall() plugin {
	var list struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(e.Config, &list); err != nil {
		return plugin{} // a network that podwall could not be in
	}
	for _, p := range append(list.Plugins, list.plugin) {
		if p.Type == "podwall" {
			return p
		}
	}
	return plugin{}
}

// attachment returns the entry as the plugin would have sent it.
func (e entry) attachment() (api.Attachment, error) {
	a := api.Attachment{Key: e.key(), Netns: e.Netns, Network: e.Network, Name: e.arg("K8S_POD_NAME"), UID: e.arg("K8S_POD_UID")}
	configured := e.podwall()
	a.Namespace = cmp.Or(e.arg("K8S_POD_NAMESPACE"), configured.Namespace, "default")
	a.RawSockets = configured.RawSockets == netconf.RawAllow.String()
	if len(e.Result) == 0 {
		return a, errors.New("result: missing")
	}
	cached, err := create.CreateFromBytes(e.Result)
	if err != nil {
		return a, fmt.Errorf("result: %w", err)
	}
	res, err := types100.NewResultFromResult(cached)
	if err != nil {
		return a, fmt.Errorf("result: %w", err)
	}
	for _, dev := range res.Interfaces {
		if a.Netns == "" && isPods(dev, a.Interface) {
			a.Netns = dev.Sandbox
		}
	}
	if a.Netns == "" {
		return a, errors.New("netns: missing, and the result names no sandbox")
	}
	a.Addresses = addresses(res, a.Interface)
	return a, nil
}

func isPods(dev *types100.Interface, name string) bool {
	return dev != nil && dev.Name == name && dev.Sandbox != ""
}

// addresses returns those of the pod's interface iface. An address that the
// result gives to no interface is the pod's too.
func addresses(res *types100.Result, iface string) []netip.Addr {
	var out []netip.Addr
	for _, ip := range res.IPs {
		if ip == nil {
			continue
		}
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(res.Interfaces) || !isPods(res.Interfaces[*i], iface)) {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}
