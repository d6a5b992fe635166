// Package integration tests podwall from outside: the built binaries, on real
// network namespaces, with real packets.
//
//	policy_test.go      what a NetworkPolicy means, case by case (testdata/policies)
//	lifecycle_test.go   what a runtime does to pods, in every order
//	restart_test.go     the daemon goes and comes, and writes nothing
//	adoption_test.go    pods that ran before podwall came
//	revocation_test.go  what becomes of open connections when policy changes
//	chaos_test.go       podwalld killed at random instants
//	bench/              what podwall costs, beside what one would pick instead
//
// # Contract
//
// Everything happens on a private machine of package lab; nothing is left behind
// and nothing of the host is touched. What is found denied was seen to pass
// without the policy. Tests need the binaries of make build.
package integration
