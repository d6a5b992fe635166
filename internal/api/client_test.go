package api

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/ruleset"
)

// serve answers each connection with what handle does, and returns the socket.
func serve(t *testing.T, handle func(ctx context.Context, c *Conn)) Client {
	t.Helper()
	dir, err := os.MkdirTemp(os.TempDir(), "api") // t.TempDir's may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-stopped
		os.RemoveAll(dir)
	})
	ctx := soon(t, 10*time.Second)
	go func() {
		defer close(stopped)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			conn := NewConn(c, MaxRequest)
			handle(ctx, conn)
			conn.Close()
		}
	}()
	return Client{Socket: socket}
}

// reply is a daemon that answers any request with one message.
func reply(t *testing.T, verb Verb, body any) Client {
	return serve(t, func(ctx context.Context, c *Conn) {
		if _, _, err := c.Receive(ctx); err == nil {
			_ = c.Send(ctx, verb, body, -1) // the client may have gone
		}
	})
}

func TestCallDecodesItsAnswer(t *testing.T) {
	c := reply(t, VerbDone, Status{Ready: true, Node: "n1"})
	var got Status
	if err := c.Call(t.Context(), VerbStatus, nil, &got, nil); err != nil || !got.Ready || got.Node != "n1" {
		t.Errorf("Call = %+v, %v", got, err)
	}
	if err := c.Call(t.Context(), VerbReady, nil, nil, nil); err != nil {
		t.Errorf("Call without result = %v", err)
	}
}

func TestWrongAnswerIsNoSuccess(t *testing.T) {
	for _, verb := range []Verb{VerbRules, VerbDel, "", "fine"} {
		c := reply(t, verb, struct{}{})
		if err := c.Call(t.Context(), VerbDel, Key{}, nil, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("answer %q to del: %v, want an invalid answer", verb, err)
		}
	}
	if _, err := reply(t, VerbDone, struct{}{}).Add(t.Context(), Attachment{}, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("answer done to add: %v, want an invalid answer", err)
	}
}

func TestUnavailable(t *testing.T) {
	hang := serve(t, func(ctx context.Context, c *Conn) {
		_, _, _ = c.Receive(ctx)
		_, _, _ = c.Receive(ctx) // until the client goes
	})
	tests := []struct {
		name   string
		client Client
	}{
		{"no socket", Client{Socket: filepath.Join(t.TempDir(), "none")}},
		{"daemon that hangs up", serve(t, func(context.Context, *Conn) {})},
		{"daemon that hangs", hang},
		{"daemon that says so", reply(t, VerbError, Errorf(CodeUnavailable, "not synced"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.client.Call(soon(t, 20*time.Millisecond), VerbDel, Key{}, nil, nil); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Call = %v, want ErrUnavailable", err)
			}
			if _, err := tt.client.Add(soon(t, 20*time.Millisecond), Attachment{}, nil); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Add = %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestRefusalIsNotUnavailability(t *testing.T) {
	err := reply(t, VerbError, Errorf(CodeInternal, "disk is full")).Call(t.Context(), VerbDel, Key{}, nil, nil)
	if errors.Is(err, ErrUnavailable) || err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("Call = %v, want the daemon's own words", err)
	}
}

func TestAddIsOneConversation(t *testing.T) {
	rules := ruleset.RuleSet{
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		Ingress: ruleset.Chain{Tiers: []ruleset.Tier{{
			Name: ruleset.TierPolicy,
			Rules: []ruleset.Rule{{
				Origin: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"},
				Action: ruleset.Accept,
				Matches: []ruleset.Match{{
					Peers: ruleset.Peers{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
					Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: 80, Last: 80}},
				}},
			}},
		}}},
		Egress: ruleset.Chain{Default: ruleset.Accept},
	}
	want := Attachment{Key: Key{"4f8c", "eth0"}, Netns: "/run/netns/a", Namespace: "shop", Name: "web", Addresses: rules.Addresses}
	var got Attachment
	var done Applied
	var sameFile bool
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	c := serve(t, func(ctx context.Context, c *Conn) {
		e, file, err := c.Receive(ctx)
		if err != nil || e.Verb != VerbAdd || file == nil {
			t.Errorf("first message %s with file %v: %v", e.Verb, file, err)
			return
		}
		defer file.Close()
		there, _ := file.Stat()
		sameFile = os.SameFile(there, st)
		_ = e.Decode(&got)
		_ = c.Send(ctx, VerbRules, rules, -1)
		if e, _, err = c.Receive(ctx); err != nil || e.Verb != VerbApplied {
			t.Errorf("second message %s: %v", e.Verb, err)
			return
		}
		_ = e.Decode(&done)
		_ = c.Send(ctx, VerbDone, struct{}{}, -1)
	})
	adding, err := c.Add(t.Context(), want, f)
	if err != nil {
		t.Fatal(err)
	}
	defer adding.Close()
	if !reflect.DeepEqual(adding.Rules, rules) {
		t.Errorf("rules that came:\n%+v\nthat were sent:\n%+v", adding.Rules, rules)
	}
	applied := Applied{Epoch: 3, Generation: 7, Took: time.Millisecond}
	if err := adding.Applied(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || !sameFile || !reflect.DeepEqual(done, applied) {
		t.Errorf("the daemon got %+v, the namespace %v, %+v", got, sameFile, done)
	}
}

func TestBrokenConversationIsUnavailability(t *testing.T) {
	c := reply(t, VerbRules, ruleset.RuleSet{}) // then it closes the connection
	adding, err := c.Add(t.Context(), Attachment{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer adding.Close()
	if err := adding.Applied(soon(t, 5*time.Second), Applied{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Applied = %v, want ErrUnavailable", err)
	}
}

func TestKeyString(t *testing.T) {
	for _, tt := range []struct {
		key  Key
		want string
	}{
		{Key{"4f8c", "eth0"}, "4f8c/eth0"},
		{Key{"0123456789abcdef", "net1"}, "0123456789ab/net1"},
	} {
		if got := tt.key.String(); got != tt.want {
			t.Errorf("%+v is %q, want %q", tt.key, got, tt.want)
		}
	}
	if got, want := (Attachment{Key: Key{"4f8c", "eth0"}, Namespace: "shop"}).Pod(), "shop/4f8c/eth0"; got != want {
		t.Errorf("a pod without a name is %q, want %q", got, want)
	}
}
