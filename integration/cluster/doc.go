// Package cluster runs real Kubernetes clusters on one computer.
//
//	c, err := cluster.Up(ctx, cluster.Config{Families: []cluster.Family{cluster.IPv4, cluster.IPv6}})
//	defer c.Down()
//	out, err := c.Kubectl(ctx, "get", "nodes")
//	out, err = c.Nodes[0].Exec(ctx, "nft", "list", "ruleset")
//	err = c.Nodes[1].PowerOff(); err = c.Nodes[1].Boot(ctx)
//
// Every part is the real one: etcd, the API server, the controller manager, the
// scheduler, and on each node containerd, runc, the reference CNI plugins, a
// kubelet and kube-proxy. The module below parts builds them, and Prepare the
// rest.
//
//	┌ control ──────────────────┐   ┌ node1 ────────────────────────────┐
//	│ etcd  API server  …       │   │ containerd  kubelet  kube-proxy   │
//	│ br0 10.77.0.1 ────────────┼───┼ eth0 10.77.0.11    cni0 ─ pods    │
//	└────────────┬──────────────┘   └───────────────────────────────────┘
//	             └────────────────── node2 …
//
// A Machine is a set of namespaces (mounts, processes, network, host name, IPC)
// whose first process is Command init: its processes see a computer of their own,
// with a /run that is empty after every boot and a disk that is not. Nothing
// leads from a machine to the computer's own network.
//
// # Contract
//
// A cluster is up after about ten seconds. Down, or the end of the process that
// called Up, however it comes, leaves no process, mount, network device or
// namespace; Down removes the cgroups and files too. Any number of clusters run
// side by side, as far as memory goes: a cluster of two nodes takes about 2 GB.
//
// The methods of one Machine are for one goroutine at a time, except Exec, Command
// and Script, which any number may call. Those that wait give up after 90 seconds
// or with the context.
//
// It needs root, cgroups of version 1, Debian's containerd, runc and
// busybox-static, iproute2, nftables, iptables, conntrack and util-linux.
package cluster
