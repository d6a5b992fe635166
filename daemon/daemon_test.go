package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/logtest"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/queue"
)

// From start to end, as systemd and a script see it.
func TestLife(t *testing.T) {
	notified := notifications(t)
	p := newPlace(t)
	r := start(t, p.args())
	if got := notified(); got != "READY=1" {
		t.Fatalf("systemd is told %q, want READY=1; log:\n%s", got, r.log)
	}
	if err := p.ready(t); err != nil {
		t.Fatalf("not ready though systemd was told so: %v", err)
	}
	var s api.Status
	if err := (api.Client{Socket: p.socket()}).Call(t.Context(), api.VerbStatus, nil, &s, nil); err != nil {
		t.Fatal(err)
	}
	if !s.Ready || s.Node != "here" || !s.Source.Synced || s.Source.Location != filepath.Join(p.dir, "policies") || s.StartedAt.IsZero() {
		t.Errorf("status = %+v", s)
	}
	if fi, err := os.Stat(p.socket()); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", fi.Mode(), err)
	}
	if status, took := r.stop(); status != 0 || took > 2*time.Second {
		t.Errorf("status %d after %s; log:\n%s", status, took, r.log)
	}
	if got := notified(); got != "STOPPING=1" {
		t.Errorf("systemd is told %q at the end, want STOPPING=1", got)
	}
	if _, err := os.Lstat(p.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// A second podwalld says who is in its way, and does not disturb the first.
func TestSecondDaemon(t *testing.T) {
	p, q := newPlace(t), newPlace(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	start(t, p.args())
	if err := p.ready(t); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"the same database", q.args("--state-dir", filepath.Join(p.dir, "state")), "another podwalld has it open"},
		{"the same socket", q.args("--socket", p.socket()), "another podwalld answers there"},
		{"an address in use", q.args("--metrics-address", busy.Addr().String()), "metricsAddress: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out logtest.Buffer
			if status := run(t.Context(), tt.args, &out, &out); status != 1 || !strings.Contains(out.String(), tt.want) {
				t.Errorf("status %d, output\n%s\nwant 1 and %q", status, out.String(), tt.want)
			}
			if err := p.ready(t); err != nil {
				t.Errorf("the first one: %v", err)
			}
			if _, err := os.Lstat(q.socket()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the second one's socket is left: %v", err)
			}
		})
	}
}

// SIGHUP reads the file again; what can't change without a restart is said.
func TestHangup(t *testing.T) {
	p := newPlace(t)
	file := filepath.Join(p.dir, "podwalld.yaml")
	write(t, file, "logLevel: info\n")
	r := start(t, p.args("--config", file))
	if err := p.ready(t); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ content, want string }{
		{"logLevel: debug\nnodeEgress: policy\n", `level=INFO msg="configuration read again"`},
		{"logLevel: debug\nlogFormat: json\n", "change without a restart"},
		{"logLevel: loud\n", "the old one holds"},
	} {
		write(t, file, tt.content)
		if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		netnstest.Eventually(t, func() error {
			if !strings.Contains(r.log.String(), tt.want) {
				return fmt.Errorf("after %q the log lacks %q:\n%s", tt.content, tt.want, r.log)
			}
			return nil
		})
	}
	// The level that the file set before its last, broken version.
	_ = (api.Client{Socket: p.socket()}).Call(t.Context(), "sudo", nil, nil, nil)
	netnstest.Eventually(t, func() error {
		if !strings.Contains(r.log.String(), "level=DEBUG") {
			return errors.New("logLevel debug shows nothing")
		}
		return nil
	})
}

func TestMetrics(t *testing.T) {
	p := newPlace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	start(t, p.args("--metrics-address", addr))
	if err := p.ready(t); err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := c.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"podwall_build_info{", `podwall_attachments{state="Enforced"} 0`, "podwall_store_size_bytes ", "podwall_problems "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("metrics lack %q:\n%.500s", want, b)
		}
	}
}

// fill puts records and a boot id into the database that the daemon will find.
func (p place) fill(t *testing.T, boot string, records ...store.Record) {
	t.Helper()
	s, err := store.Open(filepath.Join(p.dir, "state", "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.PutMany(records); err != nil {
		t.Fatal(err)
	}
	if err := s.SetBoot(boot); err != nil {
		t.Fatal(err)
	}
}

func thisBoot(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// recordOf is a record of pod shop/name on eth0 in ns, without rules so far.
func recordOf(t *testing.T, ns *netnstest.NS, name string) store.Record {
	t.Helper()
	f, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := reconcile.NetnsIDOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return store.Record{NetnsID: id, Attachment: api.Attachment{
		Key: api.Key{ContainerID: "of-" + name, Interface: "eth0"}, Netns: ns.Path(), Network: "net", Namespace: "shop", Name: name}}
}

// pods are the names of those that podwalld knows.
func (p place) pods(t *testing.T) []string {
	t.Helper()
	if err := p.ready(t); err != nil {
		t.Fatal(err)
	}
	var list []api.PodSummary
	if err := (api.Client{Socket: p.socket()}).Call(t.Context(), api.VerbPods, nil, &list, nil); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range list {
		names = append(names, a.Name)
	}
	return names
}

// What the daemon finds when it starts: attachments of this boot, of another one,
// deletions that it missed, pods that it never met.
func TestTakeOver(t *testing.T) {
	lab := netnstest.Bridge(t, 3)
	kept, deleted, adopted := lab.Pods[0].NS, lab.Pods[1].NS, lab.Pods[2].NS
	entry := func(ns *netnstest.NS, name string) []byte {
		b, err := json.Marshal(map[string]any{
			"kind": "cniCacheV1", "containerId": "of-" + name, "ifName": "eth0", "networkName": "net", "netns": ns.Path(),
			"config":  []byte(`{"name":"net","plugins":[{"type":"bridge"}]}`),
			"cniArgs": [][2]string{{"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", name}},
			"result":  map[string]any{"cniVersion": "1.0.0", "ips": []map[string]any{{"address": "10.0.0.4/24"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name, boot string
		want       []string
	}{
		{"after a restart of the daemon", thisBoot(t), []string{"adopted", "kept"}},
		{"after a restart of the machine", "another", []string{"adopted"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			p.fill(t, tt.boot, recordOf(t, kept, "kept"), recordOf(t, deleted, "deleted"))
			write(t, p.socket(), "")
			if err := os.Remove(p.socket()); err != nil {
				t.Fatal(err)
			}
			if err := queue.Push(queue.Dir(p.socket()), recordOf(t, deleted, "deleted").Key); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(p.dir, "cni", "results", "net-of-adopted-eth0"), string(entry(adopted, "adopted")))
			write(t, filepath.Join(p.dir, "cni", "results", "rubbish"), "rubbish")
			r := start(t, p.args())
			if got := p.pods(t); !slices.Equal(got, tt.want) {
				t.Errorf("pods = %v, want %v; log:\n%s", got, tt.want, r.log)
			}
			if out := adopted.Run(t, "nft list table inet podwall"); !strings.Contains(out, "chain") {
				t.Errorf("no rules stand in the adopted pod:\n%s", out)
			}
			if n := strings.Count(r.log.String(), "can't be adopted"); n != 1 {
				t.Errorf("the rubbish is reported %d times:\n%s", n, r.log)
			}
			if status, _ := r.stop(); status != 0 {
				t.Errorf("status %d", status)
			}
			if out := adopted.Run(t, "nft list table inet podwall"); !strings.Contains(out, "chain") {
				t.Error("the rules went with the daemon")
			}
		})
	}
}

// The kernel tells of a new address of the node; no sweep is waited for.
func TestAddressesAreWatched(t *testing.T) {
	node := netnstest.New(t)
	k := reconcile.New()
	k.Log = slog.New(slog.DiscardHandler)
	seen := make(chan []netip.Addr, 100)
	k.NodeAddresses = func() (addrs []netip.Addr, err error) {
		err = node.Do(func() error {
			addrs, err = nodeAddresses()
			return err
		})
		seen <- addrs
		return addrs, err
	}
	d := &daemon{keeper: k, log: k.Log}
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error)
	go func() {
		// The socket belongs to the namespace that it was made in.
		var c *netlink.Conn
		err := node.Do(func() (err error) {
			c, err = dialAddresses()
			return err
		})
		if err == nil {
			err = d.watchAddresses(ctx, c)
		}
		watched <- err
	}()
	n := 1
	netnstest.Eventually(t, func() error {
		n++
		node.Run(t, fmt.Sprintf("ip address add 192.0.2.%d/32 dev lo", n))
		select {
		case got := <-seen:
			if !slices.Contains(got, netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})) {
				return fmt.Errorf("addresses = %v, want 192.0.2.%d among them", got, n)
			}
			return nil
		case <-time.After(100 * time.Millisecond):
			return errors.New("no notice of the address")
		}
	})
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

func TestNodeAddresses(t *testing.T) {
	node := netnstest.New(t)
	for _, addr := range []string{"192.0.2.7/24", "2001:db8::7/64", "169.254.1.1/16", "fe80::7/64"} {
		node.Run(t, "ip address add "+addr+" dev lo")
	}
	var got []netip.Addr
	if err := node.Do(func() (err error) {
		got, err = nodeAddresses()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, netip.Addr.Compare)
	want := []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	if !slices.Equal(got, want) {
		t.Errorf("addresses = %v, want %v: no loopback and no link-local ones of IPv6", got, want)
	}
}
