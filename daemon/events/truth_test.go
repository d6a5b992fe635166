package events_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/events"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A bench is a Hub that runs, with a pod whose rules log.
type bench struct {
	*events.Hub
	lab  *netnstest.Lab
	pod  *netnstest.Pod
	stop func() error // ends the Hub's Run
}

// newBench makes a Hub that keeps its files in dir, and a lab of n pods.
func newBench(t testing.TB, dir string, n int) *bench {
	t.Helper()
	b := &bench{lab: netnstest.Bridge(t, n)}
	b.pod = b.lab.Pods[0]
	b.open(t, dir)
	return b
}

// open makes the bench's Hub and runs it until the test ends.
func (b *bench) open(t testing.TB, dir string) {
	t.Helper()
	hub, note, err := events.New(dir)
	if err != nil || note != nil {
		t.Fatal(err, note)
	}
	hub.Log, hub.Name, hub.Counters = slog.New(slog.DiscardHandler), b.name, nft.Counters
	b.Hub = hub
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }()
	b.stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		if cerr := hub.Close(); err == nil {
			err = cerr
		}
		return err
	})
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
}

// acquaint makes the pods know each other's addresses on the link: packets that
// wait for that may be lost before they meet any rule.
func (b *bench) acquaint(t testing.TB) {
	t.Helper()
	for i, from := range b.lab.Pods {
		to := b.lab.Pods[(i+1)%len(b.lab.Pods)]
		netnstest.Eventually(t, func() error {
			_, err := from.RunErr(fmt.Sprintf("ping -q -c 1 -W 1 %s && ping -q -c 1 -W 1 %s", to.IP4, to.IP6))
			return err
		})
	}
}

// name knows the pods of the lab as lab/pod0, lab/pod1 …
func (b *bench) name(a netip.Addr) api.End {
	for i, p := range b.lab.Pods {
		if a == p.IP4 || a == p.IP6 {
			return api.End{Namespace: "lab", Pod: fmt.Sprintf("pod%d", i), Labels: map[string]string{"n": fmt.Sprint(i)}}
		}
	}
	return api.End{}
}

// enforce installs rs in the pod and makes the Hub listen.
func (b *bench) enforce(t testing.TB, rs ruleset.RuleSet) {
	t.Helper()
	if _, _, err := nft.Apply(b.pod.FD(), "eth0", rs, nil); err != nil {
		t.Fatal(err)
	}
	b.Listen(attachment("pod0"), rs.Revision(), rs, b.pod.FD())
}

func attachment(name string) api.Attachment {
	return api.Attachment{Key: api.Key{ContainerID: "c-" + name, Interface: "eth0"}, Namespace: "lab", Name: name}
}

// watch returns what collects all events from now on.
func (b *bench) watch(t testing.TB, filter api.Filter) *collection {
	t.Helper()
	c := &collection{}
	ctx, cancel := context.WithCancel(t.Context())
	began, done := make(chan struct{}), make(chan error, 1)
	go func() {
		first := sync.OnceFunc(func() { close(began) })
		done <- b.Monitor(ctx, api.MonitorRequest{Filter: filter, Follow: true}, func(news api.Events) error {
			c.add(news)
			first()
			return nil
		})
	}()
	<-began
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// A collection is what a monitor was told.
type collection struct {
	mu     sync.Mutex
	events []api.Event
	hidden uint64
	lost   uint64
}

func (c *collection) add(news api.Events) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, news.Events...)
	c.lost += news.Lost + news.Skipped
	for _, h := range news.Hidden {
		c.hidden += h.Drops + h.Accepts
	}
}

// all returns the events so far.
func (c *collection) all() []api.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// wait returns the events once there are n.
func (c *collection) wait(t testing.TB, n int) []api.Event {
	t.Helper()
	netnstest.Eventually(t, func() error {
		if got := len(c.all()); got < n {
			return fmt.Errorf("%d events, want %d", got, n)
		}
		return nil
	})
	return c.all()
}

var (
	isolating = ruleset.Ref{Kind: "NetworkPolicy", Namespace: "lab", Name: "isolate"}
	denying   = ruleset.Ref{Kind: "ClusterNetworkPolicy", Name: "no-9000"}
	generous  = ruleset.Logging{Drops: true, Rate: 1_000_000, Burst: 1_000_000}
)

// guarded drops UDP port 9000 both ways by a rule, and isolates otherwise.
func guarded(log ruleset.Logging) ruleset.RuleSet {
	deny := ruleset.Rule{Origin: denying, Action: ruleset.Drop, Matches: []ruleset.Match{{
		Peers: ruleset.Everyone, Ports: []ruleset.Ports{{Proto: ruleset.UDP, First: 9000, Last: 9000}}}}}
	c := ruleset.Chain{Default: ruleset.Accept, Tiers: []ruleset.Tier{
		{Name: ruleset.TierAdmin, Default: ruleset.Pass, Rules: []ruleset.Rule{deny}},
		{Name: ruleset.TierPolicy, Selected: []ruleset.Ref{isolating}}}}
	return ruleset.RuleSet{Ingress: c, Egress: c, Log: log,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}}
}

// A capture sees what arrives at the pod's device, before its rules do.
type capture struct {
	fd int
}

func (b *bench) capture(t testing.TB) *capture {
	t.Helper()
	c := &capture{fd: -1}
	if err := b.pod.Do(func() (err error) {
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0x0300) // htons(ETH_P_ALL)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	return c
}

// lengths returns the lengths of the UDP packets that arrived, sorted.
func (c *capture) lengths() []int {
	var all []int
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil {
			slices.Sort(all)
			return all
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		switch {
		case !ok || ll.Pkttype != unix.PACKET_HOST || n < 40:
		case buf[0]>>4 == 4 && buf[9] == unix.IPPROTO_UDP:
			all = append(all, int(binary.BigEndian.Uint16(buf[2:])))
		case buf[0]>>4 == 6 && buf[6] == unix.IPPROTO_UDP:
			all = append(all, 40+int(binary.BigEndian.Uint16(buf[4:])))
		}
	}
}

// Each packet of a slow sender that the rules drop is an event exactly once,
// attributed to what dropped it: compared with what a packet socket sees arrive,
// and with what the pod tried to send. Each has a length of its own.
func TestEachDropIsOneEvent(t *testing.T) {
	b := newBench(t, "", 2)
	b.acquaint(t)
	b.enforce(t, guarded(generous))
	seen, wire := b.watch(t, api.Filter{Peer: "lab/pod1"}), b.capture(t)
	const each = 150
	other := b.lab.Pods[1]
	for i := range each {
		port := uint16(8000)
		if i%3 == 0 {
			port = 9000
		}
		to, back, headers := b.pod.IP4, other.IP4, 28
		if i%2 == 0 {
			to, back, headers = b.pod.IP6, other.IP6, 48
		}
		send(t, other.NS, netip.AddrPortFrom(to, port), 128+i-headers)
		send(t, b.pod.NS, netip.AddrPortFrom(back, port), 528+i-headers)
		time.Sleep(2 * time.Millisecond)
	}
	all := seen.wait(t, 2*each)
	netnstest.Eventually(t, func() error { // nothing comes twice, even later
		if s := b.Stats(); s.Listening != 1 || s.Lost != 0 || s.Malformed != 0 || len(seen.all()) != 2*each {
			return fmt.Errorf("%d events, stats %+v", len(seen.all()), s)
		}
		return nil
	})
	var arrived, left []int
	for _, e := range all {
		checkTruth(t, e, b)
		if e.Direction == ruleset.Ingress {
			arrived = append(arrived, e.Length)
		} else {
			left = append(left, e.Length)
		}
	}
	slices.Sort(arrived)
	slices.Sort(left)
	if truth := wire.lengths(); !slices.Equal(arrived, truth) || len(truth) != each {
		t.Errorf("events of ingress have the lengths\n%d\nthe wire has\n%d", arrived, truth)
	}
	for i := range each {
		if want := 528 + i; left[i] != want {
			t.Fatalf("events of egress have the lengths %d, want %d at %d", left, want, i)
		}
	}
}

// send sends one datagram of n bytes. That the pod's own rules refuse it is no
// error here.
func send(t testing.TB, from *netnstest.NS, to netip.AddrPort, n int) {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, n)); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
}

// checkTruth checks an event of TestEachDropIsOneEvent.
func checkTruth(t *testing.T, e api.Event, b *bench) {
	t.Helper()
	want := map[ruleset.Direction][2]string{ruleset.Ingress: {"lab/pod1", "lab/pod0"}, ruleset.Egress: {"lab/pod0", "lab/pod1"}}[e.Direction]
	if e.Verdict != ruleset.Dropped || e.PodName() != "lab/pod0" || e.Interface != "eth0" || e.Protocol != "UDP" || e.Reply ||
		e.From.Name() != want[0] || e.To.Name() != want[1] || e.From.Port == 0 || e.From.Labels != nil {
		t.Fatalf("event %+v, want a drop from %s to %s", e, want[0], want[1])
	}
	switch r := e.Reason; e.To.Port {
	case 9000:
		if r.Cause != ruleset.CauseRule || r.Policy == nil || *r.Policy != denying || r.Rule == nil || *r.Rule != 0 || r.Tier != ruleset.TierAdmin {
			t.Fatalf("reason %+v, want rule 0 of %v", r, denying)
		}
	default:
		if r.Cause != ruleset.CauseIsolation || !slices.Equal(r.Isolating, []ruleset.Ref{isolating}) {
			t.Fatalf("reason %+v, want isolation by %v", r, isolating)
		}
	}
	if age := time.Since(e.Time); age < 0 || age > time.Minute {
		t.Fatalf("event of %s ago", age)
	}
}

// What is beyond the limit is counted by the kernel, and told.
func TestWhatTheLimitHidesIsTold(t *testing.T) {
	b := newBench(t, "", 2)
	b.enforce(t, guarded(ruleset.Logging{Drops: true, Rate: 1, Burst: 10}))
	seen := b.watch(t, api.Filter{})
	const sent = 200                    // besides what the node multicasts
	time.Sleep(1100 * time.Millisecond) // the counters' beginning has been read
	for range sent {
		send(t, b.lab.Pods[1].NS, netip.AddrPortFrom(b.pod.IP4, 8000), 10)
	}
	netnstest.Eventually(t, func() error {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		if got := uint64(len(seen.events)) + seen.hidden; got < sent || got > sent+10 || len(seen.events) < 10 || len(seen.events) > 20 || seen.lost > 0 {
			return fmt.Errorf("%d events and %d hidden, %d lost, of %d", len(seen.events), seen.hidden, seen.lost, sent)
		}
		return nil
	})
	counts, err := nft.Counters(b.pod.FD())
	dropped := counts[ruleset.DropCounter("eth0", ruleset.Ingress)].Packets
	if told := uint64(len(seen.all())) + seen.hidden; err != nil || dropped < sent || dropped > told {
		t.Errorf("%d were dropped, %d told, %v", dropped, told, err)
	}
}

// The pod's own forgeries and its frames past the IP stack are events, too: the
// guard stands in a table of another family.
func TestGuardAndForgedAreEvents(t *testing.T) {
	b := newBench(t, "", 2)
	b.enforce(t, guarded(generous))
	seen := b.watch(t, api.Filter{})
	frame(t, b.pod, netip.MustParseAddr("10.0.0.99"), b.lab.Pods[1].IP4)
	e := seen.wait(t, 1)[0]
	if e.Reason.Cause != ruleset.CauseGuard || e.Direction != ruleset.Egress || e.Verdict != ruleset.Dropped ||
		e.From.Address != netip.MustParseAddr("10.0.0.99") || e.From.Name() != "lab/pod0" || e.To.Name() != "lab/pod1" ||
		e.Protocol != "UDP" || e.To.Port != 53 {
		t.Errorf("event %+v, want the pod's frame in another's name", e)
	}
}

// frame sends one whole frame with a forged source from the pod.
func frame(t testing.TB, pod *netnstest.Pod, src, dst netip.Addr) {
	t.Helper()
	link, err := pod.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	b := append(make([]byte, 12), 0x08, 0x00)
	ip := make([]byte, 28)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 28)
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[20:], 4000)
	binary.BigEndian.PutUint16(ip[22:], 53)
	if err := pod.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0008) // htons(ETH_P_IP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, append(b, ip...), 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: 0x0008})
	}); err != nil && !errors.Is(err, unix.ENOBUFS) { // the guard's way of saying no
		t.Fatal(err)
	}
}

// Accepted flows are events when they are new, and say which rule accepts them.
func TestAcceptedFlowsAreEventsOnce(t *testing.T) {
	b := newBench(t, "", 2)
	rs := guarded(ruleset.Logging{Accepts: true, Rate: 1000, Burst: 1000})
	rs.Ingress.Tiers[1].Rules = []ruleset.Rule{{Origin: isolating, Index: 2, Action: ruleset.Accept, Matches: []ruleset.Match{{
		Peers: ruleset.Everyone, Ports: []ruleset.Ports{{Proto: ruleset.TCP, First: 80, Last: 80}}}}}}
	b.enforce(t, rs)
	seen := b.watch(t, api.Filter{})
	b.pod.Echo(t, "tcp", b.pod.Addr4(80))
	netnstest.Flow{From: b.lab.Pods[1].NS, Network: "tcp", To: b.pod.Addr4(80)}.MustPass(t)
	e := seen.wait(t, 1)[0]
	if e.Verdict != ruleset.Accepted || e.TCPFlags != "SYN" || e.Direction != ruleset.Ingress || e.From.Name() != "lab/pod1" ||
		e.Reason.Policy == nil || *e.Reason.Policy != isolating || *e.Reason.Rule != 2 {
		t.Errorf("event %+v, want the SYN of an accepted flow", e)
	}
	flows := b.Flows(api.FlowsRequest{})
	if len(flows.Flows) != 1 || flows.Flows[0].Count != 1 || flows.Flows[0].From.Labels["n"] != "1" || flows.Flows[0].To.Labels["n"] != "0" {
		t.Errorf("flows %+v, want one, with the labels of both ends", flows)
	}
	if n := maps.Clone(b.Stats().Events); n[ruleset.Accepted] != 1 {
		t.Errorf("stats %v, want one accepted flow", n)
	}
}

// What a policy would drop is told while it passes.
func TestAuditedFlowsAreEventsAndPass(t *testing.T) {
	b := newBench(t, "", 2)
	rs := guarded(generous)
	rs.Audit = true
	b.enforce(t, rs)
	seen := b.watch(t, api.Filter{})
	b.pod.Echo(t, "tcp", b.pod.Addr4(80))
	netnstest.Flow{From: b.lab.Pods[1].NS, Network: "tcp", To: b.pod.Addr4(80)}.MustPass(t)
	e := seen.wait(t, 1)[0]
	if e.Verdict != ruleset.Audited || e.Reason.Cause != ruleset.CauseIsolation || !slices.Equal(e.Reason.Isolating, []ruleset.Ref{isolating}) {
		t.Errorf("event %+v, want an audited flow", e)
	}
}
