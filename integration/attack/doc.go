// Package attack attacks podwall: one test an attack, from inside a pod, with
// real packets and no more capabilities than the attack needs.
//
//	intruder in a pod ──▶ eth0 │ node, which listens ──▶ neighbour or world, which listen too
//
// Each attack first succeeds without podwall, else its failure would prove
// nothing. Then it is made in a pod that podwall protects, and nothing of it may
// leave the pod: every packet carries a token, and the node looks for that token
// in each frame from each pod, whatever the frame claims to be.
//
//	packet_test.go    frames written to the device, past the IP stack
//	raw_test.go       raw sockets and socket options, where policy allows TCP and DNS only
//	source_test.go    addresses that are not the pod's
//	tracking_test.go  what connection tracking can be made to believe
//	tamper_test.go    rules changed from inside
//	device_test.go    devices and namespaces made inside, or eth0 taken away
//	limit_test.go     what podwall can't stop
//	model_test.go     docs/threat-model.md tells the truth about the others
//
// # Contract
//
// As package integration: a private machine, the binaries of make build. Every
// attack is named in docs/threat-model.md with what it needs and what becomes of
// it; a test holds the page and the tests together.
package attack
