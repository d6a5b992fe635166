package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// A stream is datagrams from one pod to another, one a millisecond, every tenth
// from a new socket.
type stream struct {
	name string
	pass bool // whether policy allows it
	sent int64
	got  atomic.Int64
	stop chan struct{}
	done sync.WaitGroup
}

// pour sends until end.
func pour(t testing.TB, from, to *lab.Sandbox, port uint16, pass bool) *stream {
	t.Helper()
	at := netip.AddrPortFrom(to.Addr(false), port).String()
	sink, err := to.ListenPacket("udp", at)
	must(t, err)
	t.Cleanup(func() { _ = sink.Close() })
	must(t, sink.(*net.UDPConn).SetReadBuffer(32<<20)) // what is lost for want of room is not the firewall's doing
	s := &stream{name: from.Pod() + " to " + to.Pod(), pass: pass, stop: make(chan struct{})}
	go func() {
		for b := make([]byte, 64); ; s.got.Add(1) {
			if _, _, err := sink.ReadFrom(b); err != nil {
				return // closed
			}
		}
	}()
	s.done.Go(func() {
		if err := s.send(t, from, at); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	})
	return s
}

func (s *stream) send(t testing.TB, from *lab.Sandbox, at string) error {
	steady, err := from.Dial(t.Context(), "udp", at)
	if err != nil {
		return err
	}
	defer func() { _ = steady.Close() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ; s.sent++ {
		select {
		case <-s.stop:
			return nil
		case <-tick.C:
		}
		c := steady
		if s.sent%10 == 0 {
			if c, err = from.Dial(t.Context(), "udp", at); err != nil {
				return err
			}
		}
		_, _ = c.Write([]byte("datagram")) // one that the own firewall drops is an error, and lost
		if c != steady {
			_ = c.Close()
		}
	}
}

// end stops the stream and demands that all of it arrived, or nothing.
func (s *stream) end(t testing.TB) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	want := int64(0)
	if s.pass {
		want = s.sent
	}
	for end := time.Now().Add(time.Second); s.got.Load() < want && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("%s: %d sent, %d arrived, %d wanted", s.name, s.sent, s.got.Load(), want)
	if s.sent == 0 || s.got.Load() != want {
		t.Errorf("%s: %d of %d arrived, want %d", s.name, s.got.Load(), s.sent, want)
	}
}

// streams are one of each kind: into the pod and out of it, allowed and denied.
func (n *node) streams(t testing.TB) []*stream {
	t.Helper()
	return []*stream{
		pour(t, n.friend, n.web, 1000, true), pour(t, n.web, n.friend, 1001, true),
		pour(t, n.stranger, n.web, 1002, false), pour(t, n.web, n.stranger, 1003, false),
	}
}

// podwalld is killed and started again and again, with a change of policy on its
// way each time. No packet notices.
func TestNoPacketNoticesAKill(t *testing.T) {
	t.Parallel()
	const kills = 30
	n := newNode(t).start(t)
	streams := n.streams(t)
	for i := range kills {
		must(t, n.WriteManifest("change.yaml", fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: change-%d}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 198.18.%d.0/24}}]}]
  egress: [{to: [{ipBlock: {cidr: 198.19.0.%d/32}}]}]
`, i%3, i, i)))
		time.Sleep(rand.N(150 * time.Millisecond))
		must(t, n.Kill())
		must(t, n.Start(t.Context()))
		if i%2 == 0 {
			time.Sleep(rand.N(10 * time.Millisecond))
		}
	}
	n.knows(t)
	for _, s := range streams {
		s.end(t)
	}
	t.Logf("%d kills", kills)
	// Nothing but policy was in the way of what was denied.
	must(t, n.RemoveManifest("change.yaml"))
	must(t, n.RemoveManifest("shop.yaml"))
	expect(t, tcp(n.stranger, n.web, true), tcp(n.web, n.stranger, true))
}

// steps are the system calls with which the plugin changes anything, or tells it.
func steps() []int {
	return []int{unix.SYS_CONNECT, unix.SYS_SETNS, unix.SYS_BIND, unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_WRITE, unix.SYS_EXIT_GROUP}
}

// The plugin is killed before each of its steps in turn. What runtimes do next,
// DEL or ADD again, ends right; and podwalld enforces nothing for an ADD that
// nobody answered for.
func TestPluginKilledAtEachStep(t *testing.T) {
	t.Parallel()
	n := newNode(t).start(t)
	in := newInjector(t, n, "kill.sock", steps()...)
	before := in.before(t)
	sb := n.bare(t, "shop", "more")
	for k := 1; ; k++ {
		for _, next := range []string{"ADD", "DEL"} {
			total := 0
			in.obey(func(int, int) unix.Errno {
				if total++; total == k {
					return killed
				}
				return 0
			})
			err := n.plugin(t.Context(), "ADD", sb, before...)
			if in.injected() == 0 {
				must(t, err)
				expect(t, n.flows(sb)...)
				if t.Logf("killed before each of %d steps, twice", k-1); k < 10 {
					t.Error("too few to prove anything")
				}
				return
			}
			if err == nil {
				t.Fatalf("step %d: the plugin was killed and nobody noticed", k)
			}
			must(t, n.answer(t.Context(), next, sb))
			if next == "ADD" {
				n.knows(t, sb)
			} else {
				n.knows(t)
			}
		}
	}
}

// answer does what a runtime does: when it is told to try again, it does.
func (n *node) answer(ctx context.Context, verb string, sb *lab.Sandbox) (err error) {
	for range 5 {
		err = n.plugin(ctx, verb, sb)
		if err == nil || !strings.Contains(err.Error(), `"code": 11`) {
			break
		}
	}
	return err
}

// The same at 200 random instants, each time with podwalld's own steps anywhere.
func TestPluginKilledAtRandomInstants(t *testing.T) {
	t.Parallel()
	const kills = 200
	n := newNode(t).start(t)
	var pods []*lab.Sandbox
	for i := range 4 {
		pods = append(pods, n.bare(t, "shop", fmt.Sprintf("pod-%d", i)))
	}
	var all sync.WaitGroup
	var interrupted atomic.Int64
	for i, sb := range pods {
		all.Go(func() {
			for round := range kills / len(pods) {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(25*time.Millisecond))
				if err := n.plugin(ctx, "ADD", sb); err != nil {
					interrupted.Add(1)
				}
				cancel()
				verb := []string{"ADD", "DEL"}[(i+round)%2]
				if err := n.answer(t.Context(), verb, sb); err != nil {
					t.Errorf("pod %d, round %d: %v", i, round, err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d of %d ADDs killed", interrupted.Load(), kills)
	for _, sb := range pods {
		must(t, n.answer(t.Context(), "ADD", sb))
	}
	n.knows(t, pods...)
	expect(t, n.flows(pods...)...)
	for _, sb := range pods {
		must(t, n.plugin(t.Context(), "DEL", sb))
	}
	n.knows(t)
	if interrupted.Load() < kills/10 {
		t.Error("too few to prove anything")
	}
}
