// Package faults breaks things while podwall works: the disk, the kernel's
// answers, the clock, the processes themselves.
//
//	test ──▶ confined ──exec──▶ podwalld or podwall
//	  ▲       capabilities, system calls       │ the system calls a test asks for
//	  └────────── seccomp's listener ──────────┘ "go on", an error, or SIGKILL
//
// Most faults are injected by seccomp's user notification: a test sees each
// system call of a kind before it is made, and may let it fail with whatever
// error it likes. So every write, every fsync and every message of netlink has
// its turn to fail, and a process can be killed between any two of its steps,
// with the binaries as they are and without luck.
//
//	confine_test.go    what podwalld and podwall may do
//	inject_test.go     which of it fails
//	kill_test.go       podwalld killed under load, podwall killed at each step
//	disk_test.go       disks that are full or fail at each write
//	database_test.go   a database that was damaged while podwalld was away
//	kernel_test.go     netlink's errors, no memory for sets, namespaces that vanish
//	memory_test.go     podwalld out of memory
//	clock_test.go      clocks that jump
//	crowd_test.go      many at once, friends and foes
//	version_test.go    a plugin and a daemon of two releases
//	privilege_test.go  what the files must be like, and how little podwalld needs
//	unit_test.go       podwalld below a real systemd, as its unit says
//	boot_test.go       that systemd, on a machine where it can write nothing
//
// # Contract
//
// As package integration: a private machine, the binaries of make build. After
// each fault what the policy denies was still denied, what it allows still
// passed, and once the fault is over nothing is left of it.
package faults
