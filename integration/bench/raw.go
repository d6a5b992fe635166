package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The loads make their system calls past Go's scheduler, as a C program would:
// through it, each call that blocks costs more than a firewall does. A thread
// that waits in one can't be stopped for garbage collection, so there is none
// while a load runs.

// raw is a system call, again when a signal interrupts it.
func raw(trap, a, b, c uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(trap, a, b, c)
		switch {
		case errno == 0:
			return int(n), nil
		case !errors.Is(errno, unix.EINTR):
			return -1, errno
		}
	}
}

func rawRead(fd int, p []byte) (int, error) {
	return raw(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
}

func rawWrite(fd int, p []byte) (int, error) {
	return raw(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
}

func rawAccept(fd int) (int, error) { return raw(unix.SYS_ACCEPT, uintptr(fd), 0, 0) }

func rawSocket() (int, error) {
	return raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func rawConnect(fd int, to *unix.RawSockaddrInet4) error {
	_, err := raw(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	return err
}

func rawClose(fd int) { _, _ = raw(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// rawAddr is an address as connect wants it.
func rawAddr(addr [4]byte, port uint16) *unix.RawSockaddrInet4 {
	return &unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr, Port: port<<8 | port>>8}
}
