package main

import (
	"context"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/netnstest"
)

// pair makes a route of two namespaces.
func pair(t *testing.T) route {
	t.Helper()
	a, b := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, a, netnstest.End{Name: "eth0", Addrs: []string{"10.9.0.1/24"}}, b, netnstest.End{Name: "eth0", Addrs: []string{"10.9.0.2/24"}})
	sandbox := func(ns *netnstest.NS, addr string) *lab.Sandbox {
		return &lab.Sandbox{Netns: &lab.Netns{NS: ns}, Name: addr, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	s := route{"test", sandbox(a, "10.9.0.1"), sandbox(b, "10.9.0.2")}
	for _, ns := range []*netnstest.NS{a, b} {
		ns.Run(t, settings)
	}
	return s
}

// calm keeps the runtime from stopping the threads of loads.
func calm(t *testing.T) {
	t.Helper()
	percent, procs := debug.SetGCPercent(-1), runtime.GOMAXPROCS(8)
	t.Cleanup(func() { debug.SetGCPercent(percent); runtime.GOMAXPROCS(procs) })
}

func TestLoads(t *testing.T) {
	calm(t)
	s := pair(t)
	for _, l := range []load{requests(), stream(), datagrams(), connections(), requestCost(), connectionCost()} {
		t.Run(l.name, func(t *testing.T) {
			c, err := l.run(s, 20*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if c.ops < 1 || c.cpu < time.Millisecond || c.cpu > time.Second {
				t.Errorf("counted %v in %v of CPU time", c.ops, c.cpu)
			}
		})
	}
}

// A load that a firewall stops is an error, not a low rate.
func TestLoadsFailWherePacketsAreDropped(t *testing.T) {
	calm(t)
	s := pair(t)
	s.client.Run(t, "ip route add blackhole 10.9.0.2/32")
	for _, l := range []load{requests(), datagrams(), connectionCost()} {
		if _, err := l.run(s, 20*time.Millisecond); err == nil {
			t.Errorf("%s: no error", l.name)
		}
	}
}

// made is a subject that no packet reaches.
func made(name string) subject { return subject{name: name, pods: make([]*lab.Sandbox, copies)} }

// What halves a rate is found to halve it, to whatever the noise is.
func TestRatio(t *testing.T) {
	slowed := load{"made up", "things/s", func(s route, d time.Duration) (count, error) {
		if s.name == "slow" {
			return count{ops: 50, cpu: d}, nil
		}
		return count{ops: 100, cpu: d}, nil
	}}
	p := pairing{load: slowed, a: made("slow"), b: made("fast"), precision: 0.01, pairs: 60}
	of, rate, err := p.ratio(t.Context())
	if err != nil || of.median != 0.5 || of.n != fewest || rate.median != 500 {
		t.Errorf("ratio = %+v, rate = %+v, %v; want 0.5 after %d pairs, 500", of, rate, err, fewest)
	}
}

// The ears wait for the last of the pods.
func TestEars(t *testing.T) {
	s := pair(t)
	e, err := listenTo([]*lab.Sandbox{s.client, s.pod})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	s.client.Run(t, "nft add table inet t; nft add table inet u")
	if n := e.transactions(); n != 2 {
		t.Errorf("heard %d transactions, want 2", n)
	}
	heard := make(chan error, 1)
	go func() {
		_, err := e.wait(t.Context())
		heard <- err
	}()
	s.client.Run(t, "nft delete table inet t")
	select {
	case err := <-heard:
		t.Fatalf("it did not wait for the second pod: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.pod.Run(t, "nft add table inet t")
	if err := <-heard; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.wait(ctx); err == nil {
		t.Error("it waits on though nobody does")
	}
}
