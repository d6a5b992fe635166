package server

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
)

// add has the conversation that package api describes. If it breaks before its
// end, the attachment is forgotten.
func (s *Server) add(ctx context.Context, conn *api.Conn, req api.Envelope, netns *os.File) {
	start := time.Now()
	a, err := s.conversation(ctx, conn, req, netns)
	if err != nil {
		s.Log.Warn("attachment not added", "pod", a.Pod(), "attachment", a.Key.String(), "error", err)
		s.reply(ctx, conn, nil, err)
		return
	}
	s.Log.Info("attachment added", "pod", a.Pod(), "attachment", a.Key.String(), "took", time.Since(start))
	s.reply(ctx, conn, nil, nil)
}

func (s *Server) conversation(ctx context.Context, conn *api.Conn, req api.Envelope, netns *os.File) (api.Attachment, error) {
	var a api.Attachment
	if err := req.Decode(&a); err != nil {
		return a, err
	}
	if err := valid(a, netns); err != nil {
		return a, err
	}
	if err := s.Handler.Ready(); err != nil {
		return a, err
	}
	// The connection's descriptor is closed with the connection; the attachment
	// may need its own for longer.
	own, err := dup(netns)
	if err != nil {
		return a, err
	}
	adding, err := s.Handler.Keeper.Begin(a, own)
	if err != nil {
		return a, err
	}
	var done api.Applied
	err = conn.Send(ctx, api.VerbRules, adding.Rules, -1)
	if err == nil {
		done, err = applied(ctx, conn)
	}
	if err != nil {
		adding.Abort()
		return a, err
	}
	return a, adding.Finish(ctx, done)
}

// applied waits for the plugin to say that the rules stand.
func applied(ctx context.Context, conn *api.Conn) (api.Applied, error) {
	var done api.Applied
	e, file, err := conn.Receive(ctx)
	if file != nil {
		_ = file.Close()
	}
	if err != nil {
		return done, fmt.Errorf("wait for the plugin to apply the rules: %w", err)
	}
	if e.Verb != api.VerbApplied {
		return done, api.Errorf(api.CodeInvalid, "verb %q in the middle of ADD: want %q", e.Verb, api.VerbApplied)
	}
	return done, e.Decode(&done)
}

// valid returns an error unless the attachment can be kept.
func valid(a api.Attachment, netns *os.File) error {
	switch {
	case a.ContainerID == "":
		return api.Errorf(api.CodeInvalid, "attachment: containerID is empty")
	case a.Interface == "" || len(a.Interface) > 15:
		return api.Errorf(api.CodeInvalid, "attachment %s: interface: want 1 to 15 bytes", a.Key)
	case a.Namespace == "":
		return api.Errorf(api.CodeInvalid, "attachment %s: namespace is empty", a.Key)
	case netns == nil:
		return api.Errorf(api.CodeInvalid, "attachment %s: no descriptor of its network namespace came with the request", a.Key)
	}
	return nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
