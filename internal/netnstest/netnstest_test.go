package netnstest

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// here names the namespace of the calling thread.
func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNoThreadStaysInside(t *testing.T) {
	home := here(t)
	for range 50 {
		t.Run("", func(t *testing.T) {
			ns := New(t)
			if err := ns.Do(func() error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Do = %v, want what its function returned", err)
			}
			ns.Listen(t, "tcp", "127.0.0.1:0")
		})
	}

	var all sync.WaitGroup
	release := make(chan struct{})
	found := make(chan string, 200)
	for range cap(found) {
		all.Go(func() {
			runtime.LockOSThread() // so that each sees a thread of its own
			defer runtime.UnlockOSThread()
			name, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil {
				name = err.Error()
			}
			found <- name
			<-release
		})
	}
	for range cap(found) {
		if got := <-found; got != home {
			t.Errorf("a goroutine runs in %s, want %s", got, home)
		}
	}
	close(release)
	all.Wait()
	if main, err := os.Readlink("/proc/self/ns/net"); err != nil || main != home {
		t.Errorf("the first thread is in %s (%v), want %s", main, err, home)
	}
}

func TestGoexitInsideIsAnError(t *testing.T) {
	err := New(t).Do(func() error { runtime.Goexit(); return nil })
	if !errors.Is(err, errNoAnswer) {
		t.Errorf("Do = %v, want %v", err, errNoAnswer)
	}
}

func TestRunIsInside(t *testing.T) {
	ns := New(t)
	ns.Run(t, "nft add table inet mine")
	if got := ns.Run(t, "nft list tables"); got != "table inet mine\n" {
		t.Errorf("tables = %q", got)
	}
	if got := New(t).Run(t, "nft list tables"); got != "" {
		t.Errorf("tables of another namespace = %q", got)
	}
	if got := ns.Run(t, "nsenter --net="+ns.Path()+" nft list tables"); got != "table inet mine\n" {
		t.Errorf("tables by path = %q", got)
	}
	if out, err := ns.RunErr("echo one; echo two >&2; false; echo three"); err == nil ||
		!strings.Contains(err.Error(), "two") || out != "one\n" {
		t.Errorf("RunErr = %q, %v", out, err)
	}
}

func TestBoundNameOutlivesDescriptor(t *testing.T) {
	ns := New(t)
	ns.Run(t, "nft add table inet mine")
	path := ns.Bind(t, "netnstest-bind")
	ns.Close()
	if got := New(t).Run(t, "ip netns exec netnstest-bind nft list tables"); got != "table inet mine\n" {
		t.Errorf("tables by name = %q", got)
	}
	Unbind(t, path)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat %s = %v", path, err)
	}
}

func TestOutcomesDiffer(t *testing.T) {
	lab := Bridge(t, 2)
	from, to := lab.Pods[0], lab.Pods[1]
	for _, addr := range []func(uint16) string{to.Addr4, to.Addr6} {
		for _, network := range []string{"tcp", "udp"} {
			to.Echo(t, network, addr(7))
			open := Flow{from.NS, network, addr(7)}
			open.MustPass(t)
			Flow{from.NS, network, addr(8)}.MustBe(t, Refused)
			Flow{New(t), network, addr(7)}.MustBe(t, Unreachable)
		}
	}
}

func TestMustBlock(t *testing.T) {
	lab := Bridge(t, 2)
	from, to := lab.Pods[0], lab.Pods[1]
	var flows []Flow
	for _, network := range []string{"tcp", "udp"} {
		to.Echo(t, network, ":7")
		flows = append(flows, Flow{from.NS, network, to.Addr4(7)}, Flow{from.NS, network, to.Addr6(7)})
	}
	MustBlock(t, func() {
		to.Run(t, "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; policy accept; }; "+
			"add rule inet t c tcp dport 7 drop; add rule inet t c udp dport 7 drop'")
	}, flows...)
	to.Run(t, "nft flush ruleset")
	for _, f := range flows {
		f.MustPass(t)
	}
}

func TestStreamCountsLoss(t *testing.T) {
	lab := Bridge(t, 2)
	from, to := lab.Pods[0], lab.Pods[1]
	to.Echo(t, "udp", to.Addr6(7))
	Flow{from.NS, "udp", to.Addr6(7)}.MustPass(t)

	whole := from.StartStream(t, to.Addr6(7), time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	if sent, returned := whole.Stop(); sent < 10 || sent != returned {
		t.Errorf("without a rule %d of %d came back", returned, sent)
	}

	to.Run(t, "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; policy accept; }; "+
		"add rule inet t c udp dport 7 numgen inc mod 2 0 drop'")
	half := from.StartStream(t, to.Addr6(7), time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	if sent, returned := half.Stop(); returned != sent/2 {
		t.Errorf("with every other one dropped %d of %d came back", returned, sent)
	}
}

func TestJoin(t *testing.T) {
	a, b := New(t), New(t)
	Join(t, a, End{"left", []string{"10.9.0.1/24", "fd00:9::1/64"}}, b, End{"right", []string{"10.9.0.2/24", "fd00:9::2/64"}})
	b.Echo(t, "tcp", ":7")
	Flow{a, "tcp", "10.9.0.2:7"}.MustPass(t)
	Flow{a, "tcp", "[fd00:9::2]:7"}.MustPass(t)
}

func TestNodeReachesPods(t *testing.T) {
	lab := Bridge(t, 1)
	lab.Pods[0].Echo(t, "tcp", ":7")
	Flow{lab.Node, "tcp", lab.Pods[0].Addr4(7)}.MustPass(t)
	Flow{lab.Node, "tcp", lab.Pods[0].Addr6(7)}.MustPass(t)
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		New(b).Close()
	}
}
