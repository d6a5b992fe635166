// Package intruder is the hostile process of a pod: it does what it is told, with
// exactly the capabilities it is given.
//
//	test ──Command──▶ child, all capabilities ──Main──▶ bounding set cut down, exec ──Main──▶ Act
//
// It is root, as in most containers, and knows nothing about podwall: what to
// send is the test's affair. A container's process differs in its mounts and its
// seccomp profile, which both only take more away.
//
// # Contract
//
// An intruder acts in the network namespace that it is started in, holds no
// capability beyond those named, and says what the kernel refused. That a
// refusal is what stopped it is for the test to judge, from what arrives.
package intruder
