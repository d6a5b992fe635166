package intruder

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The geometry of an AF_XDP socket's memory: a chunk for each packet.
const (
	chunk  = 2048
	chunks = 8
)

// express sends by AF_XDP in copy mode. It needs no XDP program, since nothing
// is received, and no more than CAP_NET_RAW.
func (s Send) express() error {
	dev, err := net.InterfaceByName(s.Device)
	if err != nil {
		return fmt.Errorf("find %s: %w", s.Device, err)
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	umem, err := unix.Mmap(-1, 0, chunk*chunks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	for i, p := range s.Packets {
		copy(umem[i*chunk:], p)
	}
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&umem[0]))), Len: chunk * chunks, Size: chunk}
	if err := setsockopt(fd, unix.SOL_XDP, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return err
	}
	for _, name := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := (Option{Level: unix.SOL_XDP, Name: name, Int: chunks}).set(fd); err != nil {
			return err
		}
	}
	if err := s.describe(fd); err != nil {
		return err
	}
	to := &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(dev.Index)}
	if err := unix.Bind(fd, to); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// describe writes a descriptor for each packet into the transmit ring.
func (s Send) describe(fd int) error {
	var off unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(off))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&off)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return fmt.Errorf("read ring offsets: %w", errno)
	}
	descSize := uint64(unsafe.Sizeof(unix.XDPDesc{}))
	ring, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(off.Tx.Desc+chunks*descSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map transmit ring: %w", err)
	}
	for i, p := range s.Packets {
		at := ring[off.Tx.Desc+uint64(i)*descSize:]
		binary.NativeEndian.PutUint64(at, uint64(i*chunk))
		binary.NativeEndian.PutUint32(at[8:], uint32(len(p)))
	}
	binary.NativeEndian.PutUint32(ring[off.Tx.Producer:], uint32(len(s.Packets)))
	return nil
}
