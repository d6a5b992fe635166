// Package cyclonus tests podwall with the cases that the Kubernetes project
// cyclonus generates for the network policies of any cluster: 230 of them, in 256
// steps that create, change and delete policies, pods and labels.
//
//	cyclonus's generator ──steps──▶ laboratory ──manifests──▶ podwalld ──▶ nine real pods
//	                                    │                                     │ packets
//	cyclonus's matcher ◀──policies──────┴──▶ expected truth table ◀──equal?───┘
//
// Against a live cluster a case takes cyclonus 25 seconds. Here the pods are
// namespaces of one node, with the real plugin and daemon, and a step takes less
// than one.
//
// # Contract
//
// After each step every pod tries every other one, at both of cyclonus's ports,
// over TCP and UDP; what cyclonus's matcher allows is answered, and nothing else.
// Kernels without SCTP, and Services, which need a proxy, are left to the suites on
// a real cluster.
package cyclonus
