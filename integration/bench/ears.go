package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// Ears hear whenever the rules of some pods change: a socket in each pod's
// namespace, to which the kernel reports every transaction.
type ears struct {
	sockets []unix.PollFd
	buf     []byte
}

// A new generation of a namespace's rules ends each transaction.
const (
	tablesGroup   = 7          // NFNLGRP_NFTABLES
	newGeneration = 10<<8 | 15 // NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
)

// listenTo opens the sockets. The caller closes the ears.
func listenTo(pods []*lab.Sandbox) (*ears, error) {
	e := &ears{buf: make([]byte, 1<<16)}
	for _, sb := range pods {
		fd := -1
		err := sb.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER); err != nil {
				return err
			}
			return errors.Join(
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
				unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (tablesGroup - 1)}))
		})
		e.sockets = append(e.sockets, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		if err != nil {
			e.close()
			return nil, fmt.Errorf("listen to %s: %w", sb.Pod(), err)
		}
	}
	return e, nil
}

func (e *ears) close() {
	for _, s := range e.sockets {
		_ = unix.Close(int(s.Fd)) // nothing is written to it
	}
}

// last waits until the rules of each pod have changed, and returns when the last
// of them had.
func (e *ears) last(ctx context.Context) (time.Time, error) {
	heard := make([]bool, len(e.sockets))
	var last time.Time
	for left, end := len(heard), time.Now().Add(20*time.Second); left > 0; {
		switch n, err := unix.Poll(e.sockets, 100); {
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case err != nil && !errors.Is(err, unix.EINTR):
			return last, fmt.Errorf("poll: %w", err)
		case n <= 0 && time.Now().After(end):
			return last, fmt.Errorf("wait for %d pods' rules to change: %d have not", len(heard), left)
		}
		for i := range e.sockets {
			if e.sockets[i].Revents&unix.POLLIN == 0 || e.drain(i) == 0 {
				continue
			}
			if last = time.Now(); !heard[i] {
				heard[i] = true
				left--
			}
		}
	}
	return last, nil
}

// transactions hears what there is to hear, and counts it.
func (e *ears) transactions() (n int) {
	for i := range e.sockets {
		n += e.drain(i)
	}
	return n
}

// drain reads all that a socket has, and returns how many transactions that were.
func (e *ears) drain(i int) (generations int) {
	for {
		n, err := unix.Read(int(e.sockets[i].Fd), e.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // too many to tell
			generations++
			continue
		case err != nil:
			return generations
		}
		for b := e.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := binary.NativeEndian.Uint32(b)
			if binary.NativeEndian.Uint16(b[4:]) == newGeneration {
				generations++
			}
			if size = (size + 3) &^ 3; size < unix.SizeofNlMsghdr || int(size) > len(b) {
				break
			}
			b = b[size:]
		}
	}
}
