package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
)

// add has the conversation that package api describes. If it breaks before its
// end, the attachment is forgotten. netns may be nil, and is closed.
func (s *Server) add(ctx context.Context, conn *api.Conn, req api.Envelope, netns *os.File) {
	start := time.Now()
	l := laps{observer: s.Observer, began: start}
	a, adding, err := s.begin(ctx, &l, req, netns)
	forTheNext := err != nil && errors.Is(ctx.Err(), context.Canceled) // this one stops, and a plugin without an answer asks it
	if err == nil {
		err = install(ctx, &l, conn, adding)
	}
	s.answered(api.VerbAdd, start, err)
	if err != nil {
		s.Log.Warn("attachment not added", "pod", a.Pod(), "attachment", a.Key.String(), "error", err)
	} else {
		s.Log.Info("attachment added", "pod", a.Pod(), "attachment", a.Key.String(), "took", time.Since(start))
	}
	if !forTheNext {
		s.reply(ctx, conn, nil, err)
	}
}

// begin is the part of it up to the rules.
func (s *Server) begin(ctx context.Context, l *laps, req api.Envelope, netns *os.File) (a api.Attachment, adding *reconcile.Adding, err error) {
	if err := req.Decode(&a); err != nil {
		return a, nil, err
	}
	if err := valid(a, netns); err != nil {
		return a, nil, err
	}
	if err := s.ready(ctx); err != nil {
		return a, nil, err
	}
	l.end(PhaseDecode)
	if s.Learn != nil {
		if err := s.Learn(ctx, a); err != nil {
			return a, nil, err
		}
		l.end(PhaseLearn)
	}
	adding, err = s.Handler.Keeper.Begin(a, netns)
	if err == nil {
		l.end(PhaseBegin)
	}
	return a, adding, err
}

// install is the rest: the plugin gets the rules, and the attachment is finished
// once they stand.
func install(ctx context.Context, l *laps, conn *api.Conn, adding *reconcile.Adding) error {
	var done api.Applied
	err := conn.Send(ctx, api.VerbRules, adding.Rules, -1)
	if err == nil {
		done, err = applied(ctx, conn)
	}
	if err != nil {
		adding.Abort()
		return err
	}
	l.end(PhaseApply)
	adding.Ended = l.end
	return adding.Finish(ctx, done)
}

// ready waits for ADD to work. No pod needs to be refused because one daemon is
// being replaced by the next: the kubelet would try again only much later.
func (s *Server) ready(ctx context.Context) error {
	if s.Handler.Ready() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Limits.Ready)
	defer cancel()
	_ = s.Handler.Keeper.WaitReady(ctx) // Ready says what is missing
	return s.Handler.Ready()
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
	const longest = 253 // of Kubernetes' names
	if err := reconcile.CheckKey(a.Key); err != nil {
		return api.Errorf(api.CodeInvalid, "attachment %s: %v", a.Key, err)
	}
	switch {
	case a.Namespace == "":
		return api.Errorf(api.CodeInvalid, "attachment %s: namespace is empty", a.Key)
	case max(len(a.Namespace), len(a.Name), len(a.UID)) > longest:
		return api.Errorf(api.CodeInvalid, "attachment %s: namespace, name and uid: want at most %d bytes each", a.Key, longest)
	case slices.ContainsFunc(a.Addresses, func(a netip.Addr) bool { return !a.IsValid() || a.Zone() != "" }):
		return api.Errorf(api.CodeInvalid, "attachment %s: addresses: one is empty or has a zone", a.Key)
	case netns == nil:
		return api.Errorf(api.CodeInvalid, "attachment %s: no descriptor of its network namespace came with the request", a.Key)
	}
	return nil
}
