package server

import (
	"context"
	"time"

	"github.com/podwall/podwall/internal/api"
)

// Events are what a Handler knows of what packets met.
type Events interface {
	Monitor(ctx context.Context, req api.MonitorRequest, send func(api.Events) error) error
	Flows(req api.FlowsRequest) api.FlowList
}

// monitor answers with events for as long as the client wants them. Each message
// must have been taken within the time that a request may take; a client that
// takes none loses its connection.
func (s *Server) monitor(ctx context.Context, conn *api.Conn, req api.Envelope) {
	start := time.Now()
	var mr api.MonitorRequest
	err := req.Decode(&mr)
	gone := false
	if err == nil {
		err = s.Handler.Events.Monitor(ctx, mr, func(news api.Events) error {
			ctx, cancel := context.WithTimeout(ctx, s.Limits.Request)
			defer cancel()
			sendErr := conn.Send(ctx, api.VerbEvents, news, -1)
			gone = sendErr != nil
			return sendErr
		})
	}
	if gone {
		s.Log.Debug("a client that followed events has gone", "error", err)
		err = nil
	}
	s.answered(req.Verb, start, err)
	if !gone {
		s.reply(ctx, conn, nil, err)
	}
}
