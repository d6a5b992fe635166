// Command policyctl is what a person types on a node to see podwall's work.
//
// It asks the daemon through package api and draws the answers; nothing it does
// changes anything, but for the files that matrix --html, test --junit and doctor
// --bundle name.
// Only doctor works without a daemon, and compile, test, explain -f and matrix -f,
// which compile rule sets from a directory of manifests.
//
//	api.Client ──▶ answer ──┬─▶ page: spans of text, columns ──▶ -o table, wide
//	                        └─▶ the contract's field names  ──▶ -o json, yaml
//
// # Contract
//
// The exit status is 0 when the command did what it was asked, 1 when it failed,
// 2 when the command line is wrong, 3 when the daemon can't be reached. Errors
// are one line on stderr, lower case.
//
// Colour goes only to a terminal, and neither with --no-color nor with NO_COLOR
// set. What comes from manifests is printed with its control characters escaped:
// a policy's name can't move a terminal's cursor.
package main
