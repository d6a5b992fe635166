package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
)

// An ADD over the socket, with the real kernel: what policy denies passed before
// and is silent when ADD returns; what it allows passes.
func TestAddIsInForce(t *testing.T) {
	h := serve(t, reconcile.RealKernel, DefaultLimits)
	lab := netnstest.Bridge(t, 3)
	web, front, stranger := lab.Pods[0], lab.Pods[1], lab.Pods[2]
	add := func(p *netnstest.Pod, name string) {
		t.Helper()
		if err := h.add(t.Context(), p.NS, attachment(p.NS, name, p.IP4, p.IP6), reconcile.RealKernel); err != nil {
			t.Fatalf("ADD of shop/%s: %v", name, err)
		}
	}
	add(front, "fe")
	var allowed, denied []netnstest.Flow
	for _, addr := range []string{web.Addr4(80), web.Addr6(80)} {
		web.Echo(t, "tcp", addr)
		allowed = append(allowed, netnstest.Flow{From: front.NS, Network: "tcp", To: addr})
		denied = append(denied, netnstest.Flow{From: stranger.NS, Network: "tcp", To: addr})
	}
	netnstest.MustBlock(t, func() { add(web, "web") }, denied...)
	for _, f := range allowed {
		f.MustPass(t)
	}

	check := func() error {
		return h.client.Call(t.Context(), api.VerbCheck, attachment(web.NS, "web"), nil, nil)
	}
	if err := check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	web.Run(t, "nft flush table inet podwall")
	if err := check(); err == nil || !strings.Contains(err.Error(), "does not hold its rules") {
		t.Errorf("CHECK after somebody flushed the table: %v", err)
	}
	if err := h.client.Call(t.Context(), api.VerbDel, attachment(web.NS, "web").Key, nil, nil); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if got := h.store.keys(); len(got) != 1 || got[0] != "of-fe/eth0" {
		t.Errorf("the store holds %v after DEL, want shop/fe alone", got)
	}
}

// Whatever the plugin does in the middle of ADD but what it should, the attachment
// is forgotten, and ADD works when it comes again.
func TestConversationThatBreaks(t *testing.T) {
	limits := DefaultLimits
	limits.Request = 100 * time.Millisecond
	tests := []struct {
		name  string
		spoil func(*api.Conn) error
	}{
		{"the plugin dies", func(c *api.Conn) error { return c.Close() }},
		{"the plugin says nothing", func(*api.Conn) error { return nil }},
		{"the plugin says something else", func(c *api.Conn) error { return c.Send(t.Context(), api.VerbDel, nil, -1) }},
		{"the plugin reports nonsense", func(c *api.Conn) error { return c.Send(t.Context(), api.VerbApplied, "done", -1) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := serve(t, paper(), limits)
			ns := netnstest.New(t)
			a := attachment(ns, "web", netip.MustParseAddr("10.0.0.2"))
			conn := h.dial()
			defer conn.Close()
			if err := conn.Send(t.Context(), api.VerbAdd, a, ns.FD()); err != nil {
				t.Fatal(err)
			}
			if e, _, err := conn.Receive(t.Context()); err != nil || e.Verb != api.VerbRules {
				t.Fatalf("answer %s, %v; want rules", e.Verb, err)
			}
			if !h.keeper.Knows(a.Key) {
				t.Fatal("the attachment is not known in the middle of ADD")
			}
			if err := tt.spoil(conn); err != nil {
				t.Fatal(err)
			}
			netnstest.Eventually(t, func() error {
				if h.keeper.Knows(a.Key) || len(h.store.keys()) > 0 {
					return fmt.Errorf("known %v, stored %v", h.keeper.Knows(a.Key), h.store.keys())
				}
				return nil
			})
			if err := h.add(t.Context(), ns, a, paper()); err != nil {
				t.Errorf("ADD again: %v", err)
			}
		})
	}
}

func (h *host) dial() *api.Conn {
	h.t.Helper()
	c, err := net.Dial("unix", h.client.Socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return api.NewConn(c.(*net.UnixConn), api.MaxFrame)
}

func TestAddThatCanNeverWork(t *testing.T) {
	h := serve(t, paper(), DefaultLimits)
	ns := netnstest.New(t)
	good := attachment(ns, "web", netip.MustParseAddr("10.0.0.2"))
	but := func(change func(*api.Attachment)) api.Attachment {
		a := good
		change(&a)
		return a
	}
	tests := []struct {
		name string
		a    any
		want string
	}{
		{"a body that is no attachment", []int{1}, "json"},
		{"no container", but(func(a *api.Attachment) { a.ContainerID = "" }), "containerID"},
		{"a container that is a path", but(func(a *api.Attachment) { a.ContainerID = "../x" }), "containerID"},
		{"an interface the kernel can't have", but(func(a *api.Attachment) { a.Interface = "a/b" }), "interface"},
		{"no namespace", but(func(a *api.Attachment) { a.Namespace = "" }), "namespace is empty"},
		{"a name of 254 bytes", but(func(a *api.Attachment) { a.Name = strings.Repeat("a", 254) }), "253 bytes"},
		{"an address that is none", but(func(a *api.Attachment) { a.Addresses = []netip.Addr{{}} }), "addresses"},
		{"an address with a zone", but(func(a *api.Attachment) { a.Addresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }), "zone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := h.dial()
			if err := conn.Send(t.Context(), api.VerbAdd, tt.a, ns.FD()); err != nil {
				t.Fatal(err)
			}
			h.refused(conn, api.CodeInvalid, tt.want)
		})
	}
	t.Run("no descriptor", func(t *testing.T) {
		_, err := h.client.Add(t.Context(), good, nil)
		if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "no descriptor") {
			t.Errorf("ADD: %v", err)
		}
	})
	t.Run("a descriptor of something else", func(t *testing.T) {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		_, err = h.client.Add(t.Context(), good, null)
		if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "not a network namespace") {
			t.Errorf("ADD: %v", err)
		}
	})
}

// An ADD waits for a daemon that has just started. It is refused in the end, with
// what the daemon waits for, and not at all by one that stops: the plugin asks the
// next one then.
func TestAddWaitsForADaemonThatStarts(t *testing.T) {
	ns := netnstest.New(t)
	web := attachment(ns, "web", netip.MustParseAddr("10.0.0.2"))
	limits := DefaultLimits
	h := start(t, paper(), limits)
	time.AfterFunc(200*time.Millisecond, h.synced)
	if err := h.add(t.Context(), ns, web, paper()); err != nil {
		t.Errorf("ADD while the daemon starts: %v", err)
	}
	limits.Ready = 50 * time.Millisecond
	late := start(t, paper(), limits)
	var refusal *api.Error
	if err := late.add(t.Context(), ns, web, paper()); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "has not read its policies") {
		t.Errorf("ADD when the daemon took too long: %v", err)
	}
	stops := start(t, paper(), DefaultLimits)
	time.AfterFunc(200*time.Millisecond, func() { stops.stop() })
	if err := stops.add(t.Context(), ns, web, paper()); !errors.Is(err, api.ErrUnavailable) || errors.As(err, &refusal) {
		t.Errorf("ADD when the daemon stopped: %v; want no answer", err)
	}
}

// refused says that the next message is an error of this code, and which.
func (h *host) refused(conn *api.Conn, code api.Code, text string) {
	h.t.Helper()
	e, _, err := conn.Receive(h.t.Context())
	var refusal api.Error
	if err == nil {
		err = e.Decode(&refusal)
	}
	if err != nil || e.Verb != api.VerbError || refusal.Code != code || !strings.Contains(refusal.Message, text) {
		h.t.Errorf("answer %s %+v, %v; want a refusal %q with %q", e.Verb, refusal, err, code, text)
	}
}

// Clients that say nothing keep no ADD waiting, and 250 ADDs at once all work.
func TestManyAtOnce(t *testing.T) {
	h := serve(t, paper(), DefaultLimits)
	ns := netnstest.New(t)
	for range 1000 {
		h.dial()
	}
	start := time.Now()
	if err := h.add(t.Context(), ns, attachment(ns, "first", netip.MustParseAddr("10.0.0.1")), paper()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > DefaultLimits.Idle/2 {
		t.Errorf("an ADD beside 1,000 silent clients took %s", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the plugin's patience
	defer cancel()
	var wg sync.WaitGroup
	for i := range 250 {
		wg.Go(func() {
			a := attachment(ns, fmt.Sprint("p", i), netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
			a.Interface = fmt.Sprint("if", i) // 250 namespaces would be slower to make
			if err := h.add(ctx, ns, a, paper()); err != nil {
				t.Errorf("ADD %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := len(h.store.keys()); n != 251 {
		t.Errorf("%d attachments are stored, want 251", n)
	}
}
