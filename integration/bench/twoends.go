package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// message is what a request and an answer hold.
const message = 128

// requestLoad sends requests over one connection, each after the last's answer.
func requestLoad(s route, d time.Duration) (count, error) {
	return duet(s, func(l int) error {
		return serveOne(l, make([]byte, message), rawWrite)
	}, func(to *unix.RawSockaddrInet4) (count, error) {
		fd, err := dial(to)
		if err != nil {
			return count{}, err
		}
		defer rawClose(fd)
		buf := make([]byte, message)
		return timed(d, func() (float64, error) { return 1, exchange(fd, buf) })
	})
}

// streamLoad sends as much as one connection takes.
func streamLoad(s route, d time.Duration) (count, error) {
	return duet(s, func(l int) error {
		return serveOne(l, make([]byte, 256<<10), func(int, []byte) (int, error) { return 0, nil })
	}, func(to *unix.RawSockaddrInet4) (count, error) {
		fd, err := dial(to)
		if err != nil {
			return count{}, err
		}
		defer rawClose(fd)
		buf := make([]byte, 64<<10)
		return timed(d, func() (float64, error) {
			n, err := rawWrite(fd, buf)
			return float64(n), err
		})
	})
}

// connectionLoad opens connections one after the other, with one request each.
func connectionLoad(s route, d time.Duration) (count, error) {
	return duet(s, func(l int) error {
		buf := make([]byte, message)
		for {
			fd, err := rawAccept(l)
			if err != nil {
				return nil // shut down: the client has what it wanted, or says why not
			}
			err = answer(fd, buf)
			rawClose(fd)
			if err != nil {
				return err
			}
		}
	}, func(to *unix.RawSockaddrInet4) (count, error) {
		buf := make([]byte, message)
		return timed(d, func() (float64, error) {
			fd, err := dial(to)
			if err != nil {
				return 0, err
			}
			defer rawClose(fd)
			return 1, exchange(fd, buf)
		})
	})
}

// serveOne reads one connection to its end, and replies to whatever it reads.
func serveOne(l int, buf []byte, reply func(int, []byte) (int, error)) error {
	fd, err := rawAccept(l)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer rawClose(fd)
	for {
		n, err := rawRead(fd, buf)
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if n == 0 {
			return nil
		}
		if _, err := reply(fd, buf[:n]); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}

// exchange sends a request and reads the answer.
func exchange(fd int, buf []byte) error {
	if _, err := rawWrite(fd, buf); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	if _, err := rawRead(fd, buf); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// answer reads a request and answers it.
func answer(fd int, buf []byte) error {
	n, err := rawRead(fd, buf)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if _, err := rawWrite(fd, buf[:n]); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
