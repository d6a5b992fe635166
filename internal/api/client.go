package api

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Client calls the daemon that listens on Socket, one connection a call.
// Errors of the connection match ErrUnavailable; refusals are *Errors.
type Client struct{ Socket string }

func (c Client) dial(ctx context.Context) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return NewConn(nc.(*net.UnixConn), MaxFrame), nil
}

// Call sends a request of the given verb and decodes the answer into res, unless
// that is nil. netns, if not nil, goes with it.
func (c Client) Call(ctx context.Context, verb Verb, req, res any, netns *os.File) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	e, err := conn.exchange(ctx, verb, req, fdOf(netns), VerbDone)
	if err != nil {
		return unreachable(c.Socket, err)
	}
	if res == nil {
		return nil
	}
	return e.Decode(res)
}

// exchange sends a request and receives its answer. Any other answer than one of
// verb want is an error: it would be taken for a success.
func (c *Conn) exchange(ctx context.Context, verb Verb, req any, fd int, want Verb) (Envelope, error) {
	if err := c.Send(ctx, verb, req, fd); err != nil {
		return Envelope{}, err
	}
	e, file, err := c.Receive(ctx)
	if err != nil {
		return Envelope{}, err
	}
	if file != nil {
		_ = file.Close() // the daemon never sends one
	}
	return e, answer(e, want)
}

func fdOf(f *os.File) int {
	if f == nil {
		return -1
	}
	return int(f.Fd())
}

// An Adding is an ADD conversation after the daemon has sent the rules.
type Adding struct {
	Rules ruleset.RuleSet
	conn  *Conn
	sock  string
}

// Add opens the conversation for a and returns it with the rule set to install.
// The caller ends it with Applied or Close.
func (c Client) Add(ctx context.Context, a Attachment, netns *os.File) (*Adding, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	e, err := conn.exchange(ctx, VerbAdd, a, fdOf(netns), VerbRules)
	if err != nil {
		conn.Close()
		return nil, unreachable(c.Socket, err)
	}
	ad := &Adding{conn: conn, sock: c.Socket}
	if err := e.Decode(&ad.Rules); err != nil {
		conn.Close()
		return nil, err
	}
	return ad, nil
}

// Applied tells the daemon that the rules stand in the kernel, and waits until
// it has made the attachment durable and current. Without its answer the
// attachment is not in force.
func (a *Adding) Applied(ctx context.Context, done Applied) error {
	if _, err := a.conn.exchange(ctx, VerbApplied, done, -1, VerbDone); err != nil {
		return unreachable(a.sock, err)
	}
	return nil
}

// Close ends the conversation. After Applied has returned nil it only frees the
// connection; before, the daemon forgets the attachment.
func (a *Adding) Close() error { return a.conn.Close() }
