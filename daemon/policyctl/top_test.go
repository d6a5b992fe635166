package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// counted is a pod whose only rule and only drops have counted so much.
func counted(n uint64) api.Traffic {
	return api.Traffic{
		Attachment: api.Attachment{Key: api.Key{ContainerID: "3f2a", Interface: "eth0"}, Namespace: "shop", Name: "db"},
		Rules:      []api.RuleView{{Direction: ruleset.Ingress, Verdict: ruleset.Accept, Policy: "shop/db", Kind: "NetworkPolicy", Packets: n}},
		Dropped:    []api.DropView{{Direction: "ingress", Packets: n}},
		Received:   api.Volume{Bytes: 1024 * n},
	}
}

func TestRatesOfTop(t *testing.T) {
	tests := []struct {
		name        string
		now, before []api.Traffic
		want        float64 // drops a second
	}{
		{"twenty in two seconds", []api.Traffic{counted(30)}, []api.Traffic{counted(10)}, 10},
		{"none", []api.Traffic{counted(30)}, []api.Traffic{counted(30)}, 0},
		{"a pod that is new", []api.Traffic{counted(30)}, nil, -1},
		{"counters that were made anew", []api.Traffic{counted(3)}, []api.Traffic{counted(30)}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pods, rules := rowsOf(tt.now, tt.before, 2*time.Second)
			if got := pods[0].drops.perSecond; got != tt.want {
				t.Errorf("%v drops a second, want %v", got, tt.want)
			}
			if got := rules[0].hits.perSecond; got != tt.want {
				t.Errorf("%v hits a second, want %v", got, tt.want)
			}
			if pods[0].drops.sum != tt.now[0].Dropped[0].Packets {
				t.Errorf("sum %d", pods[0].drops.sum)
			}
		})
	}
}

// On a terminal top draws the sums, then what is added to them, until it is
// interrupted, which is no error.
func TestTopRefreshesInPlace(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := uint64(1); ; n++ {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			conn := api.NewConn(c.(*net.UnixConn), api.MaxRequest)
			if _, _, err := conn.Receive(t.Context()); err == nil {
				b, _ := json.Marshal([]api.Traffic{counted(1000 * n)})
				_ = conn.Send(t.Context(), api.VerbDone, json.RawMessage(b), -1) // the client says what is missing
			}
			_ = conn.Close()
			if n == 3 {
				interrupt()
			}
		}
	}()
	var stdout, stderr bytes.Buffer
	p := program{stdout: &stdout, stderr: &stderr, now: time.Now, terminal: true, noColor: true}
	status := p.run(ctx, []string{"--socket", socket, "top", "--interval", "10ms"})
	_ = l.Close()
	<-done
	frames := strings.Split(stdout.String(), "\x1b[H\x1b[J")
	if status != exitDone || len(frames) < 3 {
		t.Fatalf("exit status %d after %d frames: %s", status, len(frames)-1, &stderr)
	}
	if !strings.Contains(frames[1], "DROPS ") || strings.Contains(frames[1], "DROPS/S") || !strings.Contains(frames[2], "DROPS/S") {
		t.Errorf("frames:\n%s", strings.Join(frames[1:3], "\n"))
	}
}
