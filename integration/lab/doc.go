// Package lab is a Kubernetes node for tests and the demo, without Kubernetes.
//
//	machine (Private)  own processes, mounts and /run; the kernel clears it away
//	  └─ Node          network namespace: podwalld, the plugins, the bridge cni0
//	       ├─ Sandbox  network namespace: what a runtime makes for a pod
//	       └─ World    network namespace: everything beyond the node's uplink
//
// What runs there is the real thing: podwalld, policyctl and the plugins are the
// binaries in bin/, pods are attached through libcni by the reference plugins
// bridge and host-local with podwall chained behind them, and manifests are
// files. Only the pods' processes are sockets of the calling process, opened
// inside the pods' namespaces: to the kernel that is the same, and tests can
// count what passes with one clock.
//
// # Contract
//
// Nothing outside the machine is touched, and nothing is left of it when the
// process that called Private ends, in whatever way: processes die with the
// machine's first one, mounts and namespaces with the last process. Only the
// reference plugins, built once, stay in .cache/.
package lab
