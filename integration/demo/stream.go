package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

// A stream is an open connection that says something every millisecond to a pod
// that echoes it.
type stream struct {
	conn   net.Conn
	echoed atomic.Int64 // bytes that came back
	last   atomic.Int64 // when the last of them did, in nanoseconds
}

// newStream opens a connection and begins to talk.
func newStream(ctx context.Context, f lab.Flow) (*stream, error) {
	c, err := f.Dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &stream{conn: c}
	go s.write()
	go s.read()
	return s, nil
}

// write ends when the connection is closed.
func (s *stream) write() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	word := make([]byte, 100)
	for range tick.C {
		// A connection that is cut off takes no more once its buffer is full.
		if err := s.conn.SetWriteDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return
		}
		if _, err := s.conn.Write(word); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// read ends when the connection is closed.
func (s *stream) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return
		}
		s.last.Store(time.Now().UnixNano())
		s.echoed.Add(int64(n))
	}
}

// bytes is how many came back so far.
func (s *stream) bytes() int64 { return s.echoed.Load() }

// silent waits until nothing has come back for a while, and returns when the last
// byte did.
func (s *stream) silent(ctx context.Context, while time.Duration) (time.Time, error) {
	for ctx.Err() == nil {
		last := time.Unix(0, s.last.Load())
		if time.Since(last) > while {
			return last, nil
		}
		time.Sleep(time.Millisecond)
	}
	return time.Time{}, errors.New("the connection goes on")
}

// resumes waits until something comes back again.
func (s *stream) resumes(ctx context.Context) error {
	before := s.bytes()
	for ctx.Err() == nil {
		if s.bytes() > before {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the connection does not go on")
}
