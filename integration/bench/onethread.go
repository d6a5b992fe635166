package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A veth hands a packet over within the system call that sends it. So one thread
// can be both ends: what it waits for has always arrived. Sockets stay in the
// namespace that they were made in, wherever the thread is.

// burst is how many packets are sent before they are received: less than what
// a socket's buffer holds.
const burst = 32

// datagramWork sends and receives packets of one UDP flow, one way, in bursts.
func datagramWork(s route, d time.Duration) (c count, err error) {
	var in, out int
	err = errors.Join(s.pod.Do(func() (err error) {
		in, err = udp(&unix.SockaddrInet4{Port: port}, unix.Bind)
		return err
	}), s.client.Do(func() (err error) {
		out, err = udp(&unix.SockaddrInet4{Port: port, Addr: s.pod.Addr(false).As4()}, unix.Connect)
		return err
	}))
	defer rawClose(in)
	defer rawClose(out)
	if err != nil {
		return c, fmt.Errorf("open sockets: %w", err)
	}
	buf := make([]byte, 64)
	return alone(s, d, func() (float64, error) {
		for range burst {
			if _, err := rawWrite(out, buf); err != nil {
				return 0, fmt.Errorf("send: %w", err)
			}
		}
		for range burst {
			if _, err := rawRead(in, buf); err != nil {
				return 0, fmt.Errorf("receive: %w", err)
			}
		}
		return burst, nil
	})
}

// udp makes a socket in the calling thread's namespace that does not block.
func udp(addr unix.Sockaddr, use func(int, unix.Sockaddr) error) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	return fd, use(fd, addr)
}

// alone runs op on one CPU in the client's namespace.
func alone(s route, d time.Duration, op func() (float64, error)) (c count, err error) {
	err = s.client.Do(func() error {
		if err := pin(server); err != nil {
			return err
		}
		c, err = timed(d, op)
		return err
	})
	return c, err
}

// requestWork is requestLoad by one thread.
func requestWork(s route, d time.Duration) (c count, err error) {
	l, err := listen(s.pod)
	if err != nil {
		return c, err
	}
	defer rawClose(l)
	near, far := -1, -1
	err = s.client.Do(func() (err error) {
		if near, err = dial(rawAddr(s.pod.Addr(false).As4(), port)); err != nil {
			return err
		}
		far, err = rawAccept(l)
		return err
	})
	defer rawClose(near)
	defer rawClose(far)
	if err != nil {
		return c, err
	}
	buf := make([]byte, message)
	return alone(s, d, func() (float64, error) { return 1, converse(near, far, buf) })
}

// connectionWork is connectionLoad by one thread.
func connectionWork(s route, d time.Duration) (count, error) {
	l, err := listen(s.pod)
	if err != nil {
		return count{}, err
	}
	defer rawClose(l)
	to := rawAddr(s.pod.Addr(false).As4(), port)
	buf := make([]byte, message)
	return alone(s, d, func() (float64, error) {
		near, err := dial(to)
		if err != nil {
			return 0, err
		}
		defer rawClose(near)
		far, err := rawAccept(l)
		if err != nil {
			return 0, fmt.Errorf("accept: %w", err)
		}
		err = converse(near, far, buf)
		rawClose(far)
		return 1, err
	})
}

// converse sends a request and its answer from one end to the other and back.
func converse(near, far int, buf []byte) error {
	if _, err := rawWrite(near, buf); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	if err := answer(far, buf); err != nil {
		return err
	}
	if _, err := rawRead(near, buf); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}
