package api

import "context"

// Monitor asks for events and calls fn with each message of the answer, until
// all that was asked for has come, ctx ends or fn returns an error, which it
// returns.
func (c Client) Monitor(ctx context.Context, req MonitorRequest, fn func(Events) error) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Send(ctx, VerbMonitor, req, -1); err != nil {
		return unreachable(c.Socket, err)
	}
	for {
		e, file, err := conn.Receive(ctx)
		if file != nil {
			_ = file.Close() // the daemon never sends one
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return unreachable(c.Socket, err)
		case e.Verb != VerbEvents:
			return answer(e, VerbDone)
		}
		var news Events
		if err := e.Decode(&news); err != nil {
			return err
		}
		if err := fn(news); err != nil {
			return err
		}
	}
}
