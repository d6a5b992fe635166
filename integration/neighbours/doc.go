// Package neighbours tests podwall beside others: service meshes and other
// tables in a pod's own namespace, portmap and kube-proxy on its node.
//
//	mesh_test.go     redirects to a proxy in the pod, as Istio and Linkerd make them
//	tables_test.go   tables of nobody in particular
//	portmap_test.go  portmap in the chain
//	service_test.go  virtual addresses, whichever way the node translates them
//
// # Contract
//
// Verdicts are seen in packets, both families, with the built binaries on a
// private machine of package lab. What is found denied was seen to pass, by the
// same way through the same neighbour, while no policy forbade it.
package neighbours
