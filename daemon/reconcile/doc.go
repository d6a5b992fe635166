// Package reconcile keeps the firewalls of a node's attachments what policy says.
//
//	 source ──Update────▶ ┌────────┐ ──compile──▶ rule set ──nft.Apply──▶ kernel
//	 plugin ──Add, Del──▶ │ Keeper │
//	kernel ◀──sweep────── └────────┘ ──records──▶ store
//
// Whatever changes moves the Keeper's version by one. A round compiles, from the
// state at one version, the rule set of every attachment whom that concerns, and
// writes those that differ, each in one transaction; rounds never overlap, and changes that arrive
// during one are taken together by the next.
//
// # Contract
//
// An attachment's rules are always those of some version, never older than ones
// that stood before. When Finish returns, the attachment is in the store, its
// rules are those of a version that has it, and every other local pod's rules
// know its addresses, save of those whose rules can't be written just now (they
// are tried again). When Delete returns, nothing is written to the namespace any
// more. Nothing here removes a rule: an attachment that is forgotten keeps its
// rules until its namespace goes.
//
// The store follows the memory: whatever is killed whenever, it has every
// attachment whose ADD was answered and none whose DEL was. What rounds have
// installed since it has a sweep later, or when Run ends: not to know it costs a
// look at the kernel after the next start, and a remote pod never waits for a disk.
//
// Mutexes are taken in the order storing, writing (one for each attachment), mu.
package reconcile
