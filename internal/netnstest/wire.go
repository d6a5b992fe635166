package netnstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An End is one end of a pair of interfaces.
type End struct {
	Name  string
	Addrs []string // with prefix length: "10.9.0.2/24", "fd00:9::2/64"
}

// Join connects two namespaces with a pair of interfaces. Both are up, have
// their addresses and a carrier when it returns.
func Join(t testing.TB, a *NS, atA End, b *NS, atB End) {
	t.Helper()
	if err := join(a, atA, b, atB, ""); err != nil {
		t.Fatalf("join %s and %s: %v", atA.Name, atB.Name, err)
	}
	Eventually(t, func() error { return errors.Join(carrier(a, atA.Name), carrier(b, atB.Name)) })
}

// join makes the pair; a's end becomes a port of bridge, if one is named.
func join(a *NS, atA End, b *NS, atB End, bridge string) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = atA.Name, atB.Name, netlink.NsFd(b.fd)
	if bridge != "" {
		br, err := a.link.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("find %s: %w", bridge, err)
		}
		veth.MasterIndex = br.Attrs().Index
	}
	if err := a.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("add pair: %w", err)
	}
	return errors.Join(raise(b, atB), raise(a, atA))
}

// raise gives an interface its addresses and sets it up.
func raise(ns *NS, e End) error {
	link, err := ns.link.LinkByName(e.Name)
	if err != nil {
		return fmt.Errorf("find %s: %w", e.Name, err)
	}
	if err := ns.link.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", e.Name, err)
	}
	for _, s := range e.Addrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		addr.Flags |= unix.IFA_F_NODAD // else it is not usable before some worker of the kernel's says so
		if err := ns.link.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", s, e.Name, err)
		}
	}
	return nil
}

// carrier returns an error until packets can pass the interface: for a moment
// after it was set up, the kernel silently drops what is sent there.
func carrier(ns *NS, name string) error {
	link, err := ns.link.LinkByName(name)
	if err != nil {
		return err
	}
	if s := link.Attrs().OperState; s != netlink.OperUp {
		return fmt.Errorf("%s is %s", name, s)
	}
	return nil
}

// A Lab is a node with a bridge and pods on it, all dual stack.
//
//	node ── cni0 10.0.0.1/24, fd00::1/64 ──┬── pod 0: eth0 10.0.0.2/24, fd00::2/64
//	                                       └── pod 1: eth0 10.0.0.3/24, fd00::3/64 …
type Lab struct {
	Node         *NS
	Node4, Node6 netip.Addr // the bridge's addresses: the pods' default gateway
	Pods         []*Pod
}

// A Pod is a namespace on the bridge of a Lab.
type Pod struct {
	*NS
	IP4, IP6 netip.Addr
	Port     string // the name of its port on the node's bridge
}

// The interfaces of a Lab.
const (
	BridgeName = "cni0"
	PodLink    = "eth0"
)

// Bridge makes a Lab with n pods, at most 200. The node forwards both families.
func Bridge(t testing.TB, n int) *Lab {
	t.Helper()
	lab := &Lab{Node: New(t), Node4: netip.MustParseAddr("10.0.0.1"), Node6: netip.MustParseAddr("fd00::1")}
	if n > 200 {
		t.Fatalf("bridge: %d pods do not fit its prefix", n)
	}
	if err := lab.bridge(); err != nil {
		t.Fatalf("make bridge: %v", err)
	}
	lab.Node.Run(t, "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	for range n {
		lab.AddPod(t)
	}
	return lab
}

// bridge makes the bridge itself.
func (lab *Lab) bridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = BridgeName
	if err := lab.Node.link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return err
	}
	return raise(lab.Node, End{BridgeName, []string{lab.Node4.String() + "/24", lab.Node6.String() + "/64"}})
}

// AddPod adds a pod, with its default routes through the node.
func (lab *Lab) AddPod(t testing.TB) *Pod {
	t.Helper()
	p := &Pod{NS: New(t), IP4: lab.Node4.Next(), IP6: lab.Node6.Next(), Port: fmt.Sprintf("veth%d", len(lab.Pods))}
	for range lab.Pods {
		p.IP4, p.IP6 = p.IP4.Next(), p.IP6.Next()
	}
	eth0 := End{PodLink, []string{p.IP4.String() + "/24", p.IP6.String() + "/64"}}
	if err := join(lab.Node, End{Name: p.Port}, p.NS, eth0, BridgeName); err != nil {
		t.Fatalf("add pod: %v", err)
	}
	if err := p.routes(lab.Node4, lab.Node6); err != nil {
		t.Fatalf("add default routes: %v", err)
	}
	Eventually(t, func() error {
		return errors.Join(carrier(p.NS, PodLink), carrier(lab.Node, p.Port), carrier(lab.Node, BridgeName))
	})
	lab.Pods = append(lab.Pods, p)
	return p
}

// routes adds a default route through each gateway.
func (p *Pod) routes(gateways ...netip.Addr) error {
	link, err := p.link.LinkByName(PodLink)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		r := netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(gw.AsSlice())}
		if err := p.link.RouteAdd(&r); err != nil {
			return fmt.Errorf("through %s: %w", gw, err)
		}
	}
	return nil
}

// Addr4 is the pod's IPv4 address with a port, as Dial wants it.
func (p *Pod) Addr4(port uint16) string { return netip.AddrPortFrom(p.IP4, port).String() }

// Addr6 is Addr4 for IPv6.
func (p *Pod) Addr6(port uint16) string { return netip.AddrPortFrom(p.IP6, port).String() }
