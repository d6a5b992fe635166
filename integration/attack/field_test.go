package attack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/integration/lab/labtest"
)

func TestMain(m *testing.M) {
	intruder.Main()
	labtest.Main(m, 8)
}

// policies says what the pods of each namespace may do.
const policies = `
# jail: nothing at all.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: jail, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
# mute: anybody may come in, nobody may be called.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: mute, name: deny}
spec: {podSelector: {}, policyTypes: [Egress]}
---
# narrow: TCP to anybody, and DNS.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: narrow, name: tcp-and-dns}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - ports: [{protocol: TCP, port: 1, endPort: 65535}, {protocol: UDP, port: 53}]
---
# open: no policy.
apiVersion: v1
kind: Namespace
metadata: {name: open}
`

// A field is a node where pods are attacked from.
//
//	free, protected pods ──▶ node ──▶ neighbour, on the same bridge
//	                           └────▶ world, beyond the node's router
type field struct {
	*lab.Node
	free      *pod // podwall is not in its chain
	neighbour *pod // nor in this one's
	here      *tap // what comes to the node, from whichever pod
	there     *tap // what comes to the neighbour
	beyond    *tap // what comes to the world
}

func newField(t *testing.T) *field {
	t.Helper()
	return newFieldNamed(t, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
}

// newFieldNamed is newField for a test that needs several, or podwalld with flags.
func newFieldNamed(t *testing.T, name string, flags ...string) *field {
	t.Helper()
	n := labtest.NewNodeNamed(t, name)
	must(t, n.WriteManifest("policies.yaml", policies))
	must(t, n.Start(t.Context(), flags...))
	f := &field{Node: n, here: listen(t, n.Netns), beyond: listen(t, n.World)}
	f.free = f.add(t, n.Network().WithChain(), "open", "free")
	f.neighbour = f.add(t, n.Network().WithChain(), "open", "neighbour")
	f.there = listen(t, f.neighbour.Netns)
	return f
}

// A pod is a sandbox and what its intruder knows about its link.
type pod struct {
	*lab.Sandbox
	mac    []byte
	router []byte // the bridge's
	v4, v6 netip.Addr
}

// add adds a pod to a network until the test ends.
func (f *field) add(t *testing.T, network lab.Network, namespace, name string) *pod {
	t.Helper()
	sb, err := f.NewSandbox(namespace, name)
	must(t, err)
	t.Cleanup(func() { _ = sb.Delete() })
	must(t, f.Add(t.Context(), network, sb, "eth0"))
	_, err = sb.Output(t.Context(), "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647") // as containerd has it
	must(t, err)
	return &pod{Sandbox: sb, mac: mac(t, sb.Netns, "eth0"), router: mac(t, f.Netns, "cni0"), v4: sb.Addr(false), v6: sb.Addr(true)}
}

// protected adds a pod behind podwall, under its namespace's policy.
func (f *field) protected(t *testing.T, namespace string) *pod {
	t.Helper()
	return f.add(t, f.Network(), namespace, "prisoner")
}

// unprotected adds a pod without podwall.
func (f *field) unprotected(t *testing.T) *pod {
	t.Helper()
	return f.add(t, f.Network().WithChain(), "open", "another")
}

func mac(t *testing.T, ns *lab.Netns, device string) []byte {
	t.Helper()
	link, err := ns.Netlink().LinkByName(device)
	must(t, err)
	return link.Attrs().HardwareAddr
}

// act makes an intruder do something in the pod, and returns what the kernel
// refused.
func (p *pod) act(t *testing.T, a intruder.Act, capabilities []int) error {
	t.Helper()
	const patience = 3 * settling // filling a table takes a while where much else goes on
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd, err := intruder.Command(ctx, a, capabilities...)
	must(t, err)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	must(t, p.Start(cmd))
	err = cmd.Wait()
	if exit := (&exec.ExitError{}); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		return fmt.Errorf("intruder in %s: %w: %s", p.Pod(), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// A tap sees every frame that comes into or out of a namespace.
type tap struct {
	mu   sync.Mutex
	seen map[string]int
}

// listen taps a namespace until the test ends.
func listen(t *testing.T, ns *lab.Netns) *tap {
	t.Helper()
	tp := &tap{seen: map[string]int{}}
	var file *os.File
	must(t, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.ETH_P_ALL<<8)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "tap")
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	}))
	t.Cleanup(func() { _ = file.Close() })
	go tp.read(file)
	return tp
}

// read ends when the socket is closed.
func (tp *tap) read(file *os.File) {
	b := make([]byte, 64<<10)
	for {
		n, err := file.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil { // else a device that is down
			tp.note(b[:n])
		}
	}
}

// tokenStart is what all tokens begin with.
const tokenStart = "podwall-token:"

// newToken returns bytes that no other packet has.
func newToken() []byte { return []byte(tokenStart + rand.Text()[:16]) }

func (tp *tap) note(frame []byte) {
	for {
		i := bytes.Index(frame, []byte(tokenStart))
		if i < 0 || len(frame) < i+len(tokenStart)+16 {
			return
		}
		tp.mu.Lock()
		tp.seen[string(frame[i:i+len(tokenStart)+16])]++
		tp.mu.Unlock()
		frame = frame[i+len(tokenStart):]
	}
}

// saw is how many frames had the token so far.
func (tp *tap) saw(token []byte) int {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.seen[string(token)]
}

// must ends the test if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	labtest.Must(t, err)
}

// settling is how long what must happen may take.
const settling = 10 * time.Second

// eventually waits until a fact holds.
func eventually(t testing.TB, fact func() error) {
	t.Helper()
	labtest.Eventually(t, settling, fact)
}
