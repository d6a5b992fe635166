// Package labtest is package lab for tests: what fails ends the test, and what
// was made goes with it.
//
// # Contract
//
// Each function takes the test first, and none returns an error. What a function
// makes is removed in the test's clean-up, after whatever was made later.
package labtest

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

// Main runs a package's tests on a private machine, and ends the process. Tests
// here wait for packets and processes far more than they compute, so that many
// run at once: that many, unless the command line says otherwise.
func Main(m *testing.M, parallel int) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(parallel)); err != nil {
			panic(err)
		}
	}
	os.Exit(lab.Private(m.Run))
}

// NewNode makes a node that is called after the test, without podwalld.
func NewNode(t testing.TB, options ...lab.NodeOption) *lab.Node {
	t.Helper()
	return NewNodeNamed(t, strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()), options...)
}

// NewNodeNamed is NewNode for a test that needs several. If the test fails it
// shows the end of podwalld's log.
func NewNodeNamed(t testing.TB, name string, options ...lab.NodeOption) *lab.Node {
	t.Helper()
	n, err := lab.NewNode(name, options...)
	Must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of podwalld's log:\n%s", n.LogTail())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// AddPod adds a pod that answers at ports.
func AddPod(t testing.TB, n *lab.Node, namespace, name string, ports []uint16, addrs ...netip.Addr) *lab.Sandbox {
	t.Helper()
	sb, err := n.AddPod(t.Context(), namespace, name, addrs...)
	Must(t, err)
	t.Cleanup(func() { _ = sb.Delete() })
	Serve(t, sb.Netns, sb.Addrs, ports...)
	return sb
}

// Serve answers inside a namespace.
func Serve(t testing.TB, ns *lab.Netns, addrs []netip.Addr, ports ...uint16) {
	t.Helper()
	s, err := lab.Serve(ns, addrs, ports...)
	Must(t, err)
	t.Cleanup(s.Close)
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Expect waits until flows are as they should be.
func Expect(t testing.TB, within time.Duration, flows ...lab.Expectation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	Must(t, lab.Settle(ctx, flows))
}

// Eventually waits until a fact holds.
func Eventually(t testing.TB, within time.Duration, fact func() error) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		err := fact()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", within, err)
		}
	}
}

// TCP is the flow from a pod to port 80 of another, over IPv4.
func TCP(from, to *lab.Sandbox, pass bool) lab.Expectation {
	return lab.Expectation{Name: from.Pod() + " to " + to.Pod(), Pass: pass,
		Flow: lab.Flow{From: from.Netns, Proto: "tcp", To: netip.AddrPortFrom(to.Addr(false), 80)}}
}
