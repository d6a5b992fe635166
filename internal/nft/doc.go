// Package nft puts a rule set into the kernel and reads back what is there.
//
// It is the only package that speaks netlink to nftables. Everything goes to a
// network namespace by its descriptor; a thread enters one only to open a socket.
//
//	ruleset.RuleSet ──Lower──▶ ruleset.Table ──encode──▶ one transaction
//	                                 ▲
//	                    kernel ──────┘ read, and compared by fingerprint
//
// # Contract
//
// Apply changes what packets meet in one transaction that is as small as the
// difference: a packet meets the old rules or the new ones, never a mixture, and
// on error the old ones stay. Before it there may be one that only makes sets,
// which no rule refers to yet. Where nothing differs nothing is written. Other
// attachments' rules and other tables in the namespace are not touched.
package nft
