// Package events turns the packets that the pods' rules log into news for people.
//
//	pod's namespace ── NFLOG ──▶ socket ──parse, decode──▶ packet
//	reconcile ── whose rules stand there ─────────────────┐   │
//	names of addresses ───────────────────────────────────┴──▶ Event ──┬──▶ ring ──▶ file
//	                                                                   ├──▶ flows ──▶ file
//	                                                                   └──▶ monitors
//
// One goroutine, Run's, reads all sockets: there is one for each namespace that
// has rules which log.
//
// # Contract
//
// A packet that the kernel logged is an Event exactly once, attributed to what
// decided at that moment even if the rules have changed since, or is counted as
// lost. The limit of what is logged is the kernel's; what is beyond it is
// counted there, and told.
//
// A socket pins its namespace: Forget closes it, and so does Listen when it
// learns of another namespace under the same key. Nothing here blocks whoever
// applies rules, and no client of Monitor holds up another or the daemon.
//
// What was observed outlives the daemon: of the last second before a SIGKILL it
// may miss something, and after a power cut more. All that is kept is bounded.
// Packets come from pods, and files may be damaged: neither makes this package
// panic. What a pod logs by itself to podwall's group is bounded as its rules are.
package events
