package intruder

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (s Send) do() error {
	if s.Domain == unix.AF_XDP {
		return s.express()
	}
	fd, err := unix.Socket(s.Domain, s.Type, s.Protocol)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, o := range s.Options {
		if err := o.set(fd); err != nil {
			return err
		}
	}
	if s.Bind.IsValid() {
		if err := unix.Bind(fd, sockaddr(s.Bind)); err != nil {
			return fmt.Errorf("bind to %s: %w", s.Bind, err)
		}
	}
	to, err := s.receiver()
	if err != nil {
		return err
	}
	if s.Ring {
		return s.ring(fd, to)
	}
	var errs []error
	for _, p := range s.Packets {
		if err := unix.Sendto(fd, p, 0, to); err != nil {
			errs = append(errs, fmt.Errorf("send: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (o Option) set(fd int) error {
	if o.Bytes != nil {
		return setsockopt(fd, o.Level, o.Name, unsafe.Pointer(&o.Bytes[0]), uintptr(len(o.Bytes)))
	}
	v := int32(o.Int)
	return setsockopt(fd, o.Level, o.Name, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

func (s Send) receiver() (unix.Sockaddr, error) {
	if s.Domain != unix.AF_PACKET {
		return sockaddr(s.To), nil
	}
	dev, err := net.InterfaceByName(s.Device)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", s.Device, err)
	}
	to := &unix.SockaddrLinklayer{Protocol: s.Ether<<8 | s.Ether>>8, Ifindex: dev.Index, Halen: uint8(len(s.MAC))}
	copy(to.Addr[:], s.MAC)
	return to, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// The geometry of a ring: one block of frames that fit any packet.
const (
	ringFrame  = 2048
	ringFrames = 8
)

// ring puts the packets into memory shared with the kernel, which sends them.
func (s Send) ring(fd int, to unix.Sockaddr) error {
	req := unix.TpacketReq{Block_size: ringFrame * ringFrames, Block_nr: 1, Frame_size: ringFrame, Frame_nr: ringFrames}
	if err := setsockopt(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, unsafe.Pointer(&req), unsafe.Sizeof(req)); err != nil {
		return err
	}
	mem, err := unix.Mmap(fd, 0, ringFrame*ringFrames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	// Data follows the header, without room for the sender's address.
	const data = unix.TPACKET_ALIGNMENT * ((unix.SizeofTpacketHdr + unix.TPACKET_ALIGNMENT - 1) / unix.TPACKET_ALIGNMENT)
	for i, p := range s.Packets {
		frame := mem[i*ringFrame:]
		copy(frame[data:], p)
		h := (*unix.TpacketHdr)(unsafe.Pointer(&frame[0]))
		h.Len = uint32(len(p))
		h.Status = unix.TP_STATUS_SEND_REQUEST
	}
	if err := unix.Sendto(fd, nil, 0, to); err != nil {
		return fmt.Errorf("send ring: %w", err)
	}
	return nil
}

// sniff says "listening", and "seen" once a frame with the token passed.
func sniff(token []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, unix.ETH_P_ALL<<8)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	fmt.Println("listening")
	b := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if bytes.Contains(b[:n], token) {
			fmt.Println("seen")
			return nil
		}
	}
}
