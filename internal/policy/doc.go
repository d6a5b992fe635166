// Package policy computes the firewall of one pod.
//
// Compile is the whole package: a function from a Snapshot of the cluster and a
// Target to a ruleset.RuleSet. It cannot fail. It opens no file and no socket,
// reads no clock, logs nothing and starts no goroutine, so a wrong rule can
// always be reproduced from the Snapshot that gave it. A World is a Snapshot
// with an index and a memory, which make the second pod cheaper than the first,
// and the next Snapshot cheaper than the last, and change no result; the rest of
// its methods answer questions about the Snapshot.
//
//	Snapshot ──▶ policies that ──▶ peers to ──▶ tiers of ──▶ RuleSet
//	   ▲         pick the pod      addresses    rules
//	 Change
//
// # Contract
//
// The result depends on what the Snapshot holds, never on the order it holds
// it in, nor on the Changes that have led there. Equal lists of peers give one
// slice, shared by the rule sets of all pods that one World compiles; it does not
// change, and where the peers do another takes its place. A selector that picks nobody, a namespace not
// seen yet and a pod without an address all match nothing, which is the closed
// side.
//
// The types here are not the Kubernetes ones: those carry unparsed strings and
// the HTTP stack. Package kubepolicy parses them into these, and that is where
// errors live.
package policy
