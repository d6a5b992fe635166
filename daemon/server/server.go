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
	Connections int           // open at once; a further one waits in the kernel's queue
	Idle        time.Duration // until a connection's request has arrived
	Request     time.Duration // until a request is answered; an ADD has it twice
}

// DefaultLimits suit a node with a few hundred pods. The plugin gives up earlier
// than Request.
var DefaultLimits = Limits{Connections: 512, Idle: 5 * time.Second, Request: 30 * time.Second}

// A Server answers requests with a Handler.
type Server struct {
	Handler Handler
	Limits  Limits
	Log     *slog.Logger
}

// Listen makes the socket at path, in place of one that a dead daemon left
// there. A socket that somebody still listens on is an error.
func Listen(path string) (*net.UnixListener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen at %s: another podwalld answers there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	// The mode counts from the first moment on: bind applies the umask.
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l, nil
}

// Serve answers the connections of l until ctx ends, then closes l, waits for
// the requests under way and returns nil.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, s.Limits.Connections)
	for {
		free <- struct{}{}
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-free }()
			s.connection(ctx, c)
		}()
	}
}

// connection answers one request.
func (s *Server) connection(ctx context.Context, c *net.UnixConn) {
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
	body, err := s.Handler.answer(ctx, req, file)
	if err != nil {
		s.Log.Debug("request refused", "verb", req.Verb, "error", err)
	}
	s.reply(ctx, conn, body, err)
}

// reply sends the answer. One that can't be sent is the client's loss.
func (s *Server) reply(ctx context.Context, conn *api.Conn, body any, err error) {
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
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
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
