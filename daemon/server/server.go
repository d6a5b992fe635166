package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
)

// Limits bound what clients may cost.
type Limits struct {
	// Connections are open at once. A further one takes the place of the one that
	// has said nothing for longest; if all of them have spoken, it waits.
	Connections int
	Idle        time.Duration // until a connection's request has arrived
	Request     time.Duration // until a request is answered; for an ADD, its whole conversation
	Ready       time.Duration // that an ADD waits for a daemon that has just started; less than the plugin's patience
}

// DefaultLimits suit a node with a few hundred pods. The plugin gives up earlier
// than Request.
var DefaultLimits = Limits{Connections: 512, Idle: 5 * time.Second, Request: 30 * time.Second, Ready: 8 * time.Second}

const (
	acceptPause = 100 * time.Millisecond // before accepting again after an error
	lastWord    = time.Second            // for an answer when the time for the request is over
)

// A Server answers requests with a Handler.
type Server struct {
	Handler Handler
	Limits  Limits
	Log     *slog.Logger
	// Learn returns nil once the labels of an attachment's pod, which its rules
	// depend on, are known. Nil where nothing knows more than ADD does.
	Learn func(context.Context, api.Attachment) error
	// Observer is told what happens; nil if nobody is.
	Observer Observer
}

// Serve answers the connections of l until ctx ends, then closes l, waits for
// the requests under way, which end with ctx, and returns nil.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	room := newRoom(s.Limits.Connections)
	for {
		c, err := l.AcceptUnix()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // no descriptor or no memory left, at this moment
			s.Log.Error("connection not accepted", "error", err)
			room.evict()
			pause(ctx, acceptPause)
			continue
		}
		g, ok := room.enter(ctx, c)
		if !ok {
			_ = c.Close()
			return nil
		}
		wg.Go(func() {
			defer room.leave(g)
			s.connection(ctx, c, func() bool { return room.heard(g) })
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// connection answers one request. It calls heard when that has arrived.
func (s *Server) connection(ctx context.Context, c *net.UnixConn, heard func() bool) {
	conn := api.NewConn(c, api.MaxRequest)
	defer conn.Close()
	if err := onlyRoot(c); err != nil {
		s.Log.Warn("refused a client", "error", err)
		return
	}
	idle, cancel := context.WithTimeout(ctx, s.Limits.Idle)
	req, file, err := conn.Receive(idle)
	cancel()
	if file != nil {
		defer file.Close()
	}
	if !heard() {
		s.Log.Debug("a client that said nothing made room for another")
		return
	}
	if err == nil && req.Verb == api.VerbMonitor {
		s.monitor(ctx, conn, req)
		return
	}
	ctx, cancel = context.WithTimeout(ctx, s.Limits.Request)
	defer cancel()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.Log.Warn("bad request", "error", err)
			s.reply(ctx, conn, nil, err)
		}
		return
	}
	if req.Verb == api.VerbAdd {
		s.add(ctx, conn, req, file)
		return
	}
	start := time.Now()
	body, err := s.Handler.answer(req, file)
	s.answered(req.Verb, start, err)
	if err != nil {
		s.Log.Debug("request refused", "verb", req.Verb, "error", err)
	}
	s.reply(ctx, conn, body, err)
}

// reply sends the answer. One that can't be sent is the client's loss.
func (s *Server) reply(ctx context.Context, conn *api.Conn, body any, err error) {
	if ctx.Err() != nil { // the client shall know that all the same
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		defer cancel()
	}
	verb := api.VerbDone
	if err != nil {
		verb, body = api.VerbError, asError(err)
	}
	if err := conn.Send(ctx, verb, body, -1); err != nil {
		s.Log.Debug("answer not sent", "error", err)
	}
}

// asError gives every error the form in which clients get it.
func asError(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return &api.Error{Code: e.Code, Message: err.Error()}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded):
		return api.Errorf(api.CodeUnavailable, "%v", err)
	}
	return api.Errorf(api.CodeInternal, "%v", err)
}

// onlyRoot returns an error unless the process at the other end belongs to root.
func onlyRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("ask for the peer's credentials: %w", credErr)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("process %d belongs to user %d: only root may talk to podwalld", cred.Pid, cred.Uid)
	}
	return nil
}
