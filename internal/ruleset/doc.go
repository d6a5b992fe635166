// Package ruleset is the firewall of one pod as a value.
//
// A RuleSet is compiled, compared, stored, sent, installed, printed and tested;
// this package is where all of those mean the same thing. It says what a flow
// meets (Decide), whether a new rule set takes anything away from an old one
// (Covers), what it is called (Revision), and what it looks like as an nftables
// table (Lower), in text (Table.Text) or for package nft to send.
//
//	policy.Compile ──▶ RuleSet ──Lower──▶ Table ──▶ nft text
//	                      │                 └─────▶ netlink, in package nft
//	                      └──▶ Decide, Covers, Revision
//
// # Contract
//
// Zero is closed: the zero Action drops, the zero Peers and the zero Ports match
// no packet, the zero Chain drops everything and the zero RuleSet isolates its
// pod in both directions.
//
// Everything here is plain data and pure functions: no I/O, no clock, no
// goroutine. Slices are shared between values and must not be changed once a
// RuleSet has been handed on.
package ruleset
