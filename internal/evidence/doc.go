// Package evidence is what a node knows about flows: those that were observed,
// and as much of the cluster as it takes to judge them again.
//
//	flows ──┐
//	        ├──Gather──▶ Evidence ──JSON──▶ Evidence ──Stage──▶ Judge(flow)
//	World ──┘  (podwalld)                   (policyctl)  ▲
//	                                                  Change
//
// # Contract
//
// Gather and Stage are pure. On a Stage without a Change each flow is judged as
// the node judges it now. Pods that were seen and are gone since stand on it as
// they were seen, so that their flows still tell something.
//
// Evidence may come from a file: whatever is in it, nothing here panics.
package evidence
