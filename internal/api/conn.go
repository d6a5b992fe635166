package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// MaxFrame bounds one message: about 700,000 peers in a rule set.
const MaxFrame = 64 << 20

// MaxRequest bounds what the daemon takes from a client.
const MaxRequest = 4 << 20

// A Conn sends and receives messages on one connection. It must not be used by
// two goroutines at once.
type Conn struct {
	c   *net.UnixConn
	max int
}

// NewConn makes a Conn that receives messages of at most max bytes.
func NewConn(c *net.UnixConn, max int) *Conn { return &Conn{c: c, max: max} }

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends one message, and with it the descriptor fd unless that is negative.
func (c *Conn) Send(ctx context.Context, verb Verb, body any, fd int) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("send %s: %w", verb, err)
	}
	frame, err := encode(Envelope{Version: Version, Verb: verb, Body: raw})
	if err != nil {
		return fmt.Errorf("send %s: %w", verb, err)
	}
	defer c.until(ctx)()
	if fd >= 0 {
		// The descriptor rides on the frame's first byte, which alone is written
		// whole or not at all.
		if _, _, err := c.c.WriteMsgUnix(frame[:1], syscall.UnixRights(fd), nil); err != nil {
			return fmt.Errorf("send %s: %w", verb, err)
		}
		frame = frame[1:]
	}
	if _, err := c.c.Write(frame); err != nil {
		return fmt.Errorf("send %s: %w", verb, err)
	}
	return nil
}

// encode returns the frame that holds e.
func encode(e Envelope) ([]byte, error) {
	head, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	n := len(head) + 1 + len(e.Body)
	if n > MaxFrame {
		return nil, fmt.Errorf("message of %d bytes: at most %d fit", n, MaxFrame)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+n), uint32(n))
	return append(append(append(b, head...), '\n'), e.Body...), nil
}

// Receive waits for one message. If a descriptor came with it, file is not nil
// and the caller closes it. A closed connection is io.EOF, a message of another
// version or with a broken frame an *Error.
func (c *Conn) Receive(ctx context.Context) (e Envelope, file *os.File, err error) {
	defer c.until(ctx)()
	r := &rightsReader{c: c.c}
	e, err = decode(r, c.max)
	if err != nil {
		r.close()
		return Envelope{}, nil, err
	}
	return e, r.file, nil
}

// decode reads one frame of at most max bytes from r.
func decode(r io.Reader, max int) (Envelope, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Envelope{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(max) {
		return Envelope{}, Errorf(CodeInvalid, "message of %d bytes: at most %d are read", n, max)
	}
	// A length costs nothing to claim, so beyond the usual memory follows what arrives.
	const usual = 32 << 10
	var message bytes.Buffer
	message.Grow(min(int(n), usual) + bytes.MinRead)
	if _, err := message.ReadFrom(io.LimitReader(r, int64(n))); err != nil {
		return Envelope{}, err
	}
	b := message.Bytes()
	if len(b) < int(n) {
		return Envelope{}, io.ErrUnexpectedEOF
	}
	var e Envelope
	line, body, _ := bytes.Cut(b, []byte{'\n'})
	if err := json.Unmarshal(line, &e); err != nil {
		return Envelope{}, Errorf(CodeInvalid, "message: %v", err)
	}
	e.Body = body
	if e.Version != Version {
		return Envelope{}, Errorf(CodeVersion, "message of version %d: this side speaks version %d; install podwall and podwalld of one release", e.Version, Version)
	}
	return e, nil
}

// Decode reads the body of e into v. A body that does not fit is an *Error.
func (e Envelope) Decode(v any) error {
	if err := json.Unmarshal(e.Body, v); err != nil {
		return Errorf(CodeInvalid, "%s: %v", e.Verb, err)
	}
	return nil
}

// until makes the connection's reads and writes end with ctx, and returns what
// undoes that.
func (c *Conn) until(ctx context.Context) func() {
	if d, ok := ctx.Deadline(); ok {
		_ = c.c.SetDeadline(d) // fails only on a closed connection, which the next call reports
	} else {
		_ = c.c.SetDeadline(time.Time{})
	}
	stop := context.AfterFunc(ctx, func() { _ = c.c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// A rightsReader reads from a unix socket and keeps the first descriptor that
// comes along. It closes any other.
type rightsReader struct {
	c    *net.UnixConn
	file *os.File
}

func (r *rightsReader) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4*4))
	n, oobn, _, _, err := r.c.ReadMsgUnix(b, oob)
	n = max(n, 0) // with an error it is -1, with which io.ReadAll panics
	if oobn > 0 {
		r.keep(oob[:oobn])
	}
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

func (r *rightsReader) keep(oob []byte) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range msgs {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			if r.file == nil {
				r.file = os.NewFile(uintptr(fd), "received descriptor")
			} else {
				_ = syscall.Close(fd)
			}
		}
	}
}

func (r *rightsReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// answer turns a received answer into an error, unless its verb is want.
func answer(e Envelope, want Verb) error {
	switch e.Verb {
	case want:
		return nil
	case VerbError:
	default:
		return Errorf(CodeInvalid, "answer %q: want %s", e.Verb, want)
	}
	var re Error
	if err := e.Decode(&re); err != nil {
		return err
	}
	return &re
}

// unreachable makes errors of the connection match ErrUnavailable.
func unreachable(socket string, err error) error {
	var re *Error
	if errors.As(err, &re) {
		return err
	}
	return fmt.Errorf("podwalld at %s: %w: %w", socket, ErrUnavailable, err)
}
