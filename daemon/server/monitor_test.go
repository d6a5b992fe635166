package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
)

// A feed is what a daemon has to say: a message each time something comes in.
type feed chan api.Events

func (f feed) Monitor(ctx context.Context, req api.MonitorRequest, send func(api.Events) error) error {
	if _, err := req.Filter.Compile(); err != nil {
		return api.Errorf(api.CodeInvalid, "monitor: %v", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case news, more := <-f:
			if !more {
				return nil
			}
			if err := send(news); err != nil {
				return err
			}
		}
	}
}

func (f feed) Flows(api.FlowsRequest) api.FlowList { return api.FlowList{Forgotten: 7} }

func withFeed(f feed) func(*Server) { return func(s *Server) { s.Handler.Events = f } }

// A monitor lasts longer than a request may take, and gets everything in order.
func TestMonitorLasts(t *testing.T) {
	f := make(feed)
	h := serve(t, paper(), Limits{Connections: 2, Idle: time.Second, Request: 100 * time.Millisecond}, withFeed(f))
	go func() {
		defer close(f)
		for i := range uint64(4) {
			f <- api.Events{Lost: i}
			time.Sleep(80 * time.Millisecond)
		}
	}()
	var got []uint64
	err := h.client.Monitor(t.Context(), api.MonitorRequest{Follow: true}, func(news api.Events) error {
		got = append(got, news.Lost)
		return nil
	})
	if err != nil || len(got) != 4 || got[3] != 3 {
		t.Errorf("got %v, %v; want the four messages", got, err)
	}
}

// A client that goes away, one that takes nothing and a server that stops end
// the stream.
func TestMonitorEnds(t *testing.T) {
	f := make(feed)
	h := serve(t, paper(), Limits{Connections: 4, Idle: time.Second, Request: 50 * time.Millisecond}, withFeed(f))
	enough := errors.New("enough")
	go func() { f <- api.Events{} }()
	if err := h.client.Monitor(t.Context(), api.MonitorRequest{}, func(api.Events) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Monitor: %v, want its client's error", err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = h.client.Monitor(t.Context(), api.MonitorRequest{}, func(api.Events) error { time.Sleep(time.Second); return nil })
	}()
	big := api.Events{Events: make([]api.Event, 2000)}
	for end := time.After(10 * time.Second); ; {
		select {
		case f <- big: // whoever takes this fills the connection, or is the one that has gone
			continue
		case <-gone:
		case <-end:
			t.Fatal("a client that takes nothing is not let go")
		}
		break
	}
	stopped := make(chan error, 1)
	go func() {
		stopped <- h.client.Monitor(t.Context(), api.MonitorRequest{Follow: true}, func(api.Events) error { return nil })
	}()
	f <- api.Events{} // it is there
	if took := h.stop(); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if err := <-stopped; err != nil {
		t.Errorf("a monitor of a server that stops: %v", err)
	}
}

func TestMonitorRefusal(t *testing.T) {
	h := serve(t, paper(), DefaultLimits, withFeed(make(feed)))
	err := h.client.Monitor(t.Context(), api.MonitorRequest{Filter: api.Filter{Peer: "?"}}, func(api.Events) error { return nil })
	if !errors.Is(err, api.ErrInvalid) {
		t.Errorf("Monitor: %v, want a refusal", err)
	}
	h.stop()
	err = h.client.Monitor(t.Context(), api.MonitorRequest{}, func(api.Events) error { return nil })
	if !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("Monitor without a server: %v", err)
	}
}

func TestFlowsAndTop(t *testing.T) {
	h := serve(t, paper(), DefaultLimits, withFeed(make(feed)))
	var flows api.FlowList
	if err := h.client.Call(t.Context(), api.VerbFlows, api.FlowsRequest{}, &flows, nil); err != nil || flows.Forgotten != 7 {
		t.Errorf("flows: %+v, %v", flows, err)
	}
	var top []api.Traffic
	if err := h.client.Call(t.Context(), api.VerbTop, nil, &top, nil); err != nil || top == nil || len(top) != 0 {
		t.Errorf("top: %v, %v; want an empty list", top, err)
	}
}
