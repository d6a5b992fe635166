package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// A Sandbox is what a runtime makes for a pod: a network namespace and an id.
// Pods that are made again under their old name are new sandboxes.
type Sandbox struct {
	*Netns
	ID                   string
	Namespace, Name, UID string // of the pod; all empty for a sandbox that is not Kubernetes'
	Addrs                []netip.Addr
}

// Pod is the pod's namespace/name.
func (sb *Sandbox) Pod() string { return sb.Namespace + "/" + sb.Name }

// Addr is the first address of the sandbox's family.
func (sb *Sandbox) Addr(v6 bool) netip.Addr {
	for _, a := range sb.Addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// NewSandbox makes a sandbox that no network is attached to yet.
func (n *Node) NewSandbox(namespace, name string) (*Sandbox, error) {
	seq := n.sandbox.Add(1)
	id := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s %d", n.Name, seq)))
	ns, err := newNetns(fmt.Sprintf("cni-%s-%d", n.Name, seq))
	if err != nil {
		return nil, err
	}
	sb := &Sandbox{Netns: ns, ID: id, Namespace: namespace, Name: name}
	if name != "" {
		sb.UID = fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:32])
	}
	return sb, nil
}

// AddPod makes a sandbox and attaches it to the node's pod network as eth0, at
// the given addresses or any free ones. If ADD fails it does what a kubelet
// does: DEL, and the sandbox goes.
func (n *Node) AddPod(ctx context.Context, namespace, name string, addrs ...netip.Addr) (*Sandbox, error) {
	sb, err := n.NewSandbox(namespace, name)
	if err != nil {
		return nil, err
	}
	if err := n.Add(ctx, n.Network(), sb, "eth0", addrs...); err != nil {
		_ = n.Del(ctx, n.Network(), sb, "eth0") // ADD's error says more
		_ = sb.Delete()
		return nil, fmt.Errorf("add pod %s/%s: %w", namespace, name, err)
	}
	return sb, nil
}

// DelPod detaches a pod that AddPod made, and deletes its sandbox.
func (n *Node) DelPod(ctx context.Context, sb *Sandbox) error {
	if err := n.Del(ctx, n.Network(), sb, "eth0"); err != nil {
		return fmt.Errorf("delete pod %s: %w", sb.Pod(), err)
	}
	return sb.Delete()
}

// Add attaches a sandbox to a network, and keeps the addresses it got there.
func (n *Node) Add(ctx context.Context, net Network, sb *Sandbox, ifname string, addrs ...netip.Addr) error {
	return n.cniCall(net, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		rt := n.runtimeConf(sb, ifname)
		if len(addrs) > 0 {
			rt.CapabilityArgs = map[string]any{"ips": addrs}
		}
		res, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		r, err := types100.NewResultFromResult(res)
		if err != nil {
			return err
		}
		for _, ip := range r.IPs {
			if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
				sb.Addrs = append(sb.Addrs, a.Unmap())
			}
		}
		return nil
	})
}

// Del detaches a sandbox from a network.
func (n *Node) Del(ctx context.Context, net Network, sb *Sandbox, ifname string) error {
	return n.cniCall(net, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.DelNetworkList(ctx, list, n.runtimeConf(sb, ifname))
	})
}

// Check asks the plugins whether an attachment is as ADD left it.
func (n *Node) Check(ctx context.Context, net Network, sb *Sandbox, ifname string) error {
	return n.cniCall(net, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.CheckNetworkList(ctx, list, n.runtimeConf(sb, ifname))
	})
}

// GC tells the plugins which sandboxes are still attached to a network as eth0.
func (n *Node) GC(ctx context.Context, net Network, valid ...*Sandbox) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, sb := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: sb.ID, IfName: "eth0"})
	}
	return n.cniCall(net, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.GCNetworkList(ctx, list, args)
	})
}

// Status asks the plugins whether they could ADD now.
func (n *Node) Status(ctx context.Context, net Network) error {
	return n.cniCall(net, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.GetStatusNetworkList(ctx, list)
	})
}

// cniCall calls libcni inside the node's namespace, where plugins expect to be
// started.
func (n *Node) cniCall(net Network, call func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
	list, err := net.list()
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{n.bin, n.cni}, n.cache, n.Exec)
	return n.Do(func() error { return call(cni, list) })
}

func (n *Node) runtimeConf(sb *Sandbox, ifname string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: sb.ID, NetNS: sb.Path(), IfName: ifname}
	if sb.Name != "" {
		rt.Args = [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", sb.Namespace},
			{"K8S_POD_NAME", sb.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", sb.ID},
			{"K8S_POD_UID", sb.UID},
		}
	}
	return rt
}
