package events_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/events"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A socket keeps its namespace until it is closed.
func TestForgottenNamespaceIsNotPinned(t *testing.T) {
	b := newBench(t, "", 2)
	b.enforce(t, guarded(generous))
	b.Listen(attachment("pod0"), "again", guarded(generous), b.pod.FD()) // harmless
	inode := b.pod.Inode(t)
	b.pod.Close()
	if n := socketsIn(t, inode); n == 0 {
		t.Fatal("while the hub listens no socket is in the namespace; nothing would show that it lets go")
	}
	b.Forget(attachment("pod0").Key)
	b.Forget(attachment("pod0").Key)
	netnstest.Eventually(t, func() error {
		if n := socketsIn(t, inode); n > 0 {
			return fmt.Errorf("%d sockets are in the namespace", n)
		}
		return nil
	})
	if n := b.Stats().Listening; n != 0 {
		t.Errorf("listens to %d namespaces", n)
	}
}

// socketsIn counts this process's sockets in a namespace.
func socketsIn(t testing.TB, inode uint64) (count int) {
	t.Helper()
	const siocgskns = 0x894c
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		ns, err := unix.IoctlRetInt(fd, siocgskns)
		if err != nil {
			continue // no socket, or closed meanwhile
		}
		var st unix.Stat_t
		if unix.Fstat(ns, &st) == nil && st.Ino == inode {
			count++
		}
		_ = unix.Close(ns)
	}
	return count
}

// The second of a pod's attachments shares the socket of the first, and the same
// attachment in another namespace does not.
func TestSocketsFollowAttachments(t *testing.T) {
	b := newBench(t, "", 2)
	rs, second := guarded(generous), attachment("pod0")
	second.Interface = "net1"
	steps := []struct {
		name string
		do   func()
		want int
	}{
		{"first attachment", func() { b.Listen(attachment("pod0"), "1", rs, b.pod.FD()) }, 1},
		{"second in the same namespace", func() { b.Listen(second, "1", rs, b.pod.FD()) }, 1},
		{"first is forgotten", func() { b.Forget(attachment("pod0").Key) }, 1},
		{"second in another namespace", func() { b.Listen(second, "1", rs, b.lab.Pods[1].FD()) }, 1},
		{"its rules log nothing", func() { b.Listen(second, "2", ruleset.RuleSet{}, b.lab.Pods[1].FD()) }, 0},
		{"they log again", func() { b.Listen(second, "3", rs, b.lab.Pods[1].FD()) }, 1},
		{"it is forgotten", func() { b.Forget(second.Key) }, 0},
	}
	for _, s := range steps {
		s.do()
		if n := b.Stats().Listening; n != s.want {
			t.Errorf("%s: listens to %d namespaces, want %d", s.name, n, s.want)
		}
	}
}

// Whoever may change the pod's network can take its log away. That is seen.
func TestSquatter(t *testing.T) {
	b := newBench(t, "", 2)
	squatter, _, err := events.New("")
	if err != nil {
		t.Fatal(err)
	}
	rs := guarded(generous)
	squatter.Listen(attachment("squatter"), "1", rs, b.pod.FD())
	b.enforce(t, rs)
	b.enforce(t, rs)
	if p := b.Problems(); len(p) != 1 || b.Stats().Taken != 1 || b.Stats().Listening != 0 {
		t.Errorf("problems %v, stats %+v; want one problem", p, b.Stats())
	}
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	b.enforce(t, rs)
	if p := b.Problems(); len(p) != 0 || b.Stats().Listening != 1 {
		t.Errorf("when it has gone: problems %v, stats %+v", p, b.Stats())
	}
}

// A packet that was logged before its rules were replaced, and read after, is
// attributed to those that dropped it.
func TestEventsOfRulesBefore(t *testing.T) {
	b := newBench(t, "", 2)
	rs := guarded(generous)
	b.enforce(t, rs)
	seen := b.watch(t, api.Filter{Peer: "lab/pod1"})
	later := guarded(generous)
	later.Ingress.Tiers[1].Selected = append(slices.Clone(later.Ingress.Tiers[1].Selected), ruleset.Ref{Kind: "NetworkPolicy", Namespace: "lab", Name: "more"})
	if _, _, err := nft.Apply(b.pod.FD(), "eth0", rs, nil); err != nil {
		t.Fatal(err)
	}
	b.Listen(attachment("pod0"), later.Revision(), later, b.pod.FD()) // the kernel still has the rules before
	send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(b.pod.IP4, 8000), 10)
	if r := seen.wait(t, 1)[0].Reason; !slices.Equal(r.Isolating, []ruleset.Ref{isolating}) {
		t.Errorf("reason %+v, want isolation by %v alone", r, isolating)
	}
}

// After a SIGKILL, which lets nobody write anything, the next daemon has what
// the one before had a second ago: here, a copy of its files.
func TestMemoryOutlivesTheDaemon(t *testing.T) {
	dir, later := t.TempDir(), t.TempDir()
	b := newBench(t, dir, 2)
	b.enforce(t, guarded(generous))
	begin := time.Now().Add(-time.Minute)
	for i := range 20 {
		send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(b.pod.IP4, 8000), 100+i)
	}
	netnstest.Eventually(t, func() error {
		if n := len(past(t, b.Hub, begin)); n != 20 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	time.Sleep(time.Second)
	for _, name := range []string{"drops.jsonl", "accepts.jsonl", "flows.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if name == "drops.jsonl" {
			content = append(content, `{"time":"2026-`...) // cut in the middle of a line
		}
		if err := os.WriteFile(filepath.Join(later, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, note, err := events.New(later)
	if err != nil || note != nil {
		t.Fatal(err, note)
	}
	defer next.Close()
	if n := len(past(t, next, begin)); n != 20 {
		t.Errorf("%d events after the restart, want 20", n)
	}
	if n := len(past(t, next, time.Now().Add(time.Minute))); n != 0 {
		t.Errorf("%d events of the future", n)
	}
	flows := flowsOf(next)
	if len(flows) != 1 || flows[0].Count != 20 || flows[0].From.Name() != "lab/pod1" {
		t.Errorf("flows after the restart: %+v", flows)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	orderly, note, err := events.New(dir)
	if err != nil || note != nil {
		t.Fatal(err, note)
	}
	defer orderly.Close()
	if flows := flowsOf(orderly); len(flows) != 1 || flows[0].Count != 20 || flows[0].From.Labels["n"] != "1" {
		t.Errorf("flows after an orderly restart: %+v", flows)
	}
}

// flowsOf returns the flows without what the node multicasts.
func flowsOf(h *events.Hub) []api.Flow {
	return slices.DeleteFunc(h.Flows(api.FlowsRequest{}).Flows, func(f api.Flow) bool { return f.To.Address.IsMulticast() })
}

// past returns the events since a moment, from the lab's second pod.
func past(t testing.TB, h *events.Hub, since time.Time) []api.Event {
	t.Helper()
	var list []api.Event
	err := h.Monitor(t.Context(), api.MonitorRequest{Since: since, Filter: api.Filter{Peer: "lab/pod1"}}, func(news api.Events) error {
		list = append(list, news.Events...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A client that takes nothing costs the others nothing, and learns what it has
// missed.
func TestSlowClient(t *testing.T) {
	b := newBench(t, "", 2)
	b.enforce(t, guarded(generous))
	blocked, free := make(chan struct{}), make(chan struct{})
	var first bool
	told := make(chan api.Events, 100)
	go func() {
		_ = b.Monitor(t.Context(), api.MonitorRequest{Follow: true}, func(news api.Events) error {
			if !first {
				first = true
				close(blocked)
				<-free
			}
			told <- news
			return nil
		})
	}()
	<-blocked
	quick := b.watch(t, api.Filter{})
	const sent = 3000
	for range sent {
		send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(b.pod.IP4, 8000), 10)
	}
	quick.wait(t, sent)
	close(free)
	<-told // nothing
	if news := <-told; len(news.Events) != 2048 || news.Skipped < sent-2048 {
		t.Errorf("the slow client gets %d events and has missed %d, of %d", len(news.Events), news.Skipped, sent)
	}
}

func TestDamagedFilesAreSaid(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flows.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, note, err := events.New(dir)
	if err != nil || note == nil {
		t.Fatalf("New: note %v, error %v; want a note alone", note, err)
	}
	defer h.Close()
	if flows := h.Flows(api.FlowsRequest{}); len(flows.Flows) != 0 || flows.Began.IsZero() {
		t.Errorf("flows %+v", flows)
	}
}

// Each of a pod's attachments has its own events, though they share a socket.
func TestTwoInterfaces(t *testing.T) {
	b := newBench(t, "", 2)
	b.acquaint(t)
	netnstest.Join(t, b.lab.Pods[1].NS, netnstest.End{Name: "net1", Addrs: []string{"10.7.0.1/24"}}, b.pod.NS, netnstest.End{Name: "net1", Addrs: []string{"10.7.0.2/24"}})
	b.lab.Pods[1].Run(t, "ping -q -c 1 -W 5 10.7.0.2")
	b.enforce(t, guarded(generous))
	second, rs := attachment("pod0"), guarded(generous)
	second.Interface, rs.Addresses = "net1", []netip.Addr{netip.MustParseAddr("10.7.0.2")}
	if _, _, err := nft.Apply(b.pod.FD(), "net1", rs, nil); err != nil {
		t.Fatal(err)
	}
	b.Listen(second, rs.Revision(), rs, b.pod.FD())
	seen := b.watch(t, api.Filter{Port: 8000})
	send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(b.pod.IP4, 8000), 10)
	send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(rs.Addresses[0], 8000), 10)
	got := map[string]string{}
	for _, e := range seen.wait(t, 2) {
		got[e.Interface] = e.To.Address.String()
	}
	if len(got) != 2 || got["eth0"] != b.pod.IP4.String() || got["net1"] != "10.7.0.2" {
		t.Errorf("events by interface: %v", got)
	}
}
