// Package doctor looks at a node and says what keeps podwall from working there,
// and what to do about it.
//
//	kernel ── plugin ── chain ── last pod ── socket ── daemon ── source ── store ── pods ── clock
//
// # Contract
//
// An examination only looks: it changes nothing on the node but for a network
// namespace of its own, which goes again. Each check is independent of the others;
// what can't be found out is Unknown, with the reason, and never OK. With the
// daemon away all that can be seen without it is still said. Every Result that is
// not OK has an Advice.
package doctor
