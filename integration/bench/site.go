package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/podwall/podwall/integration/lab"
)

// clientAddr is the address of the pod that sends, the fifth of all peers.
var clientAddr = netip.MustParseAddr("10.1.0.200")

const clientIndex = 5

// peerAddr is the address of the i-th peer.
func peerAddr(i int) netip.Addr {
	if i == clientIndex {
		return clientAddr
	}
	return netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)})
}

// Labels of the peers: the first ten, the first thousand, all.
const (
	tenPeers      = `ten: "1"`
	thousandPeers = `thousand: "1"`
	allPeers      = `all: "1"`
)

// peerManifests are the files with pods 0 to n that may be peers, elsewhere in
// the cluster.
func peerManifests(n int) map[string]string {
	files := map[string]string{}
	const each = 20_000 // pods in a file, whose size is limited
	for from := 0; from < n; from += each {
		var s strings.Builder
		for i := from; i < min(n, from+each); i++ {
			labels := allPeers
			if i < 1000 {
				labels += fmt.Sprintf(`, %s, id: "%d"`, thousandPeers, i)
			}
			if i < 10 {
				labels += ", " + tenPeers
			}
			fmt.Fprintf(&s, "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: peer-%d, labels: {%s}}\n"+
				"spec: {nodeName: elsewhere, containers: [{name: main}]}\nstatus: {podIPs: [{ip: %s}]}\n", i, labels, peerAddr(i))
		}
		files[fmt.Sprintf("peers-%d.yaml", from/each)] = s.String()
	}
	return files
}

// A shape is the policy of one pod: how many rules it has, and for each which
// peers it admits at which port.
type shape struct {
	rules  int
	from   func(rule int) string
	port   func(rule int) int
	egress bool // the same rules for what the pod opens
}

// oneRule admits peers at the port.
func oneRule(peers string) shape {
	return shape{rules: 1, from: func(int) string { return peers }, port: func(int) int { return port }}
}

// manyPorts has rules for as many ports; that in the middle admits peers at the
// port, the others ten.
func manyPorts(rules int, peers string) shape {
	return shape{rules: rules, from: func(i int) string {
		if i == rules/2 {
			return peers
		}
		return tenPeers
	}, port: func(i int) int { return port - rules/2 + i }}
}

// onePort has rules that admit a peer each, all at the port; the client is that
// of the rule in the middle.
func onePort(rules int) shape {
	return shape{rules: rules, from: func(i int) string {
		return fmt.Sprintf(`id: "%d"`, (i+clientIndex+rules/2)%rules)
	}, port: func(int) int { return port }}
}

// manifest is n pods shop/name and their policy.
func (sh shape) manifest(name string, n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: %s, labels: {app: %s}}\nspec: {containers: [{name: main}]}\n---\n",
			replica(name, i), name)
	}
	fmt.Fprintf(&s, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: %[1]s}\nspec:\n  podSelector: {matchLabels: {app: %[1]s}}\n", name)
	rules := func(direction, end string) {
		fmt.Fprintf(&s, "  %s:\n", direction)
		for i := range sh.rules {
			fmt.Fprintf(&s, "  - {%s: [{podSelector: {matchLabels: {%s}}}], ports: [{protocol: TCP, port: %d}, {protocol: UDP, port: %[3]d}]}\n",
				end, sh.from(i), sh.port(i))
		}
	}
	if sh.egress {
		s.WriteString("  policyTypes: [Ingress, Egress]\n")
		rules("egress", "to")
	}
	rules("ingress", "from")
	return s.String()
}

// A site is a node with podwalld, a client, and pods under one firewall each.
type site struct {
	*lab.Node
	client   *lab.Sandbox
	subjects map[string]subject
}

// settings of a pod that measures connections: ports are free again at once, and
// what was tracked is soon forgotten, or each slice would be slower than the last.
const settings = `cd /proc/sys/net
	echo 1024 65000 >ipv4/ip_local_port_range
	echo 0 >ipv4/tcp_max_tw_buckets
	echo 1 >ipv4/tcp_syn_retries
	echo cubic >ipv4/tcp_congestion_control || true
	echo 1 >netfilter/nf_conntrack_tcp_timeout_time_wait
	echo 1 >netfilter/nf_conntrack_tcp_timeout_close`

// attach adds a pod at a network, and tries again as a kubelet does.
func (s *site) attach(ctx context.Context, net lab.Network, name string, addrs ...netip.Addr) (*lab.Sandbox, error) {
	sb, err := s.NewSandbox("shop", name)
	if err != nil {
		return nil, err
	}
	for range 10 {
		if err = s.Add(ctx, net, sb, "eth0", addrs...); err == nil {
			break
		}
		_ = s.Del(ctx, net, sb, "eth0") // ADD's error says more
	}
	if err != nil {
		return nil, fmt.Errorf("add pod %s: %w\n%s", name, err, s.LogTail())
	}
	_, err = sb.RunErr(settings)
	return sb, err
}

// under adds n pods of a subject, behind what is chained after the bridge.
func (s *site) under(ctx context.Context, name, pod string, n int, net lab.Network) error {
	sub := subject{name: name, client: s.client}
	for i := range n {
		sb, err := s.attach(ctx, net, replica(pod, i))
		if err != nil {
			return err
		}
		sub.pods = append(sub.pods, sb)
	}
	s.subjects[name] = sub
	return nil
}

// replica is the name of the i-th pod of a kind.
func replica(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, i)
}

// byHand adds the pods of a subject with nft's rules.
func (s *site) byHand(ctx context.Context, name, rules string) error {
	if err := s.under(ctx, name, fmt.Sprintf("hand-%d", len(s.subjects)), copiesOf(name), s.Network().WithChain()); err != nil {
		return err
	}
	file := filepath.Join(s.Dir, "hand.nft")
	if err := writeFile(file, rules); err != nil {
		return err
	}
	for _, sb := range s.subjects[name].pods {
		if _, err := sb.RunErr("nft -f " + file); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path, content string) error { return os.WriteFile(path, []byte(content), 0o644) }

// tracking is what makes the kernel track connections, and nothing else.
const tracking = "table inet filter {\n\tchain input { type filter hook input priority filter; ct state established accept; }\n}\n"

// minimal is the filter that somebody would write by hand for n peers and ports:
// as good as it gets with nothing but a set lookup for each new connection.
func minimal(n, ports int) string {
	var s strings.Builder
	s.WriteString("table inet filter {\n\tset peers { type ipv4_addr\nelements = {\n")
	for i := range n {
		fmt.Fprintf(&s, "%s,\n", peerAddr(i))
	}
	s.WriteString("} }\n\tset ports { type inet_service\nelements = {\n")
	for i := range ports {
		fmt.Fprintf(&s, "%d,\n", port-ports/2+i)
	}
	s.WriteString(`} }
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		ct state established,related accept
		ip saddr @peers meta l4proto { tcp, udp } th dport @ports accept
	}
}
`)
	return s.String()
}

// linear is a rule for each of n peers, as agents on iptables make them; the
// client's is in the middle.
func linear(n int) string {
	var s strings.Builder
	s.WriteString("table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tiif \"lo\" accept\n\t\tct state established,related accept\n")
	for i := range n {
		peer := peerAddr((i + clientIndex + n/2) % n)
		fmt.Fprintf(&s, "ip saddr %s meta l4proto { tcp, udp } th dport %d counter accept\n", peer, port)
	}
	s.WriteString("\t}\n}\n")
	return s.String()
}
