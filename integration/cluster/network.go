package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// The control plane's machine is the switch between all machines, and their
// default gateway. Nothing leads from there to the computer's own network.

// wireControl makes the switch.
func (c *Cluster) wireControl(ctx context.Context) error {
	var s strings.Builder
	s.WriteString("ip link set lo up\nip link add br0 type bridge\n")
	for _, f := range c.Families {
		fmt.Fprintf(&s, "ip addr add %s/%d dev br0 nodad\n", f.control(), f.bits())
	}
	s.WriteString("ip link set br0 up\n" + forwarding)
	return c.Control.Script(ctx, s.String())
}

const forwarding = "echo 1 >/proc/sys/net/ipv4/ip_forward\necho 1 >/proc/sys/net/ipv6/conf/all/forwarding\n"

// wireNode connects a node to the switch, and tells everyone where its pods are.
func (c *Cluster) wireNode(ctx context.Context, n *Node) error {
	// The kernel takes its time to remove the cable of a machine that is off.
	if err := c.Control.Script(ctx, "ip link delete "+n.Name+" 2>/dev/null || true"); err != nil {
		return err
	}
	// From here, where both machines' processes are known by number.
	cable := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(n.Pid()), "-n", "--",
		"ip", "link", "add", "eth0", "type", "veth", "peer", "name", n.Name, "netns", strconv.Itoa(c.Control.Pid()))
	if _, err := output(cable); err != nil {
		return err
	}
	var s strings.Builder
	s.WriteString("ip link set lo up\n")
	for _, f := range c.Families {
		fmt.Fprintf(&s, "ip addr add %s/%d dev eth0 nodad\n", f.node(n.Index), f.bits())
	}
	s.WriteString("ip link set eth0 up\n")
	for _, f := range c.Families {
		fmt.Fprintf(&s, "ip route add %s via %s\n", f.anywhere(), f.control())
		for _, other := range c.Nodes {
			if other.Index != n.Index {
				fmt.Fprintf(&s, "ip route add %s via %s\n", f.pods(other.Index), f.node(other.Index))
			}
		}
	}
	// kube-proxy wants to see what the bridge passes between pods of one node.
	s.WriteString(forwarding + "for f in iptables ip6tables; do echo 1 >/proc/sys/net/bridge/bridge-nf-call-$f; done\n")
	if err := n.Script(ctx, s.String()); err != nil {
		return err
	}
	s.Reset()
	fmt.Fprintf(&s, "ip link set %s master br0\nip link set %s up\n", n.Name, n.Name)
	for _, f := range c.Families {
		fmt.Fprintf(&s, "ip route replace %s via %s\n", f.pods(n.Index), f.node(n.Index))
	}
	return c.Control.Script(ctx, s.String())
}
