// Package netnstest gives tests real network namespaces.
//
//	New ──▶ NS ──┬─ Do, Run      code and commands inside
//	             ├─ Listen, Dial sockets made inside, used anywhere
//	             ├─ Connect …    packets, and what became of them
//	             └─ Join, Bridge wires between namespaces
//
// # Contract
//
// No thread that was inside a namespace ever runs another goroutine, however a
// test ends: whoever enters, enters on a thread that is destroyed afterwards.
// Nothing else in the project enters one.
//
// A namespace has no name in the file system unless a test gives it one (Bind),
// so a test that is killed leaves none behind. All of it needs root, and fails
// the test without: a test of a firewall that was skipped has proved nothing.
package netnstest
