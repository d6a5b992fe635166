package attack

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
)

// asking is a pod that asks to send whole frames.
const asking = `
apiVersion: v1
kind: Pod
metadata:
  namespace: jail
  name: asks
  annotations: {podwall.io/raw-sockets: allow}
spec: {containers: [{name: dhclient}]}
`

// Whole frames leave a pod whose network or whose annotation is allowed them, and
// no other: not the one that asks where nobody lets it.
func TestWhoMaySendWholeFrames(t *testing.T) {
	t.Parallel()
	f := newFieldNamed(t, "whomaysendwholeframes", "--pod-annotations", "raw-sockets")
	must(t, f.WriteManifest("asking.yaml", asking))
	entry := f.Podwall()
	entry["rawSockets"] = "allow"
	denied := f.protected(t, "jail")
	allowed := f.add(t, f.Network().WithChain(entry), "jail", "dhcp")
	asks := f.add(t, f.Network(), "jail", "asks")

	f.passes(t, allowed)
	f.passes(t, asks)
	f.stopped(t, denied)

	must(t, f.Stop())
	must(t, f.Start(t.Context())) // pods may not ask any more
	eventually(t, func() error {
		out, err := f.Policyctl(t.Context(), "status")
		if err == nil && !strings.Contains(out, "Pod jail/asks: metadata.annotations[podwall.io/raw-sockets]: not honoured") {
			err = fmt.Errorf("the status does not name the pod that asks:\n%s", out)
		}
		return err
	})
	eventually(t, func() error { return guarded(t, asks) })
	f.stopped(t, asks)
	f.stopped(t, denied)
	f.passes(t, allowed) // as its network says, after a restart too
}

// guarded returns an error unless p's device is guarded.
func guarded(t *testing.T, p *pod) error {
	_, err := p.Output(t.Context(), "nft", "list", "chain", "netdev", "podwall", "eth0/guard")
	return err
}

// frame sends a frame with a new token to the neighbour.
func (f *field) frame(t *testing.T, p *pod) (token []byte) {
	t.Helper()
	token = newToken()
	// What the kernel says does not matter here: the neighbour's tap decides.
	_ = p.act(t, frame{kind: unix.SOCK_RAW, told: etherIPv4}.to(f, whole(f, p, token)), []int{intruder.NetRaw})
	return token
}

// passes waits until a frame of p arrives.
func (f *field) passes(t *testing.T, p *pod) {
	t.Helper()
	eventually(t, func() error {
		if !arrives(f.there, f.frame(t, p)) {
			return fmt.Errorf("%s: no frame arrives", p.Pod())
		}
		return nil
	})
}

// stopped fails if any of a few frames of p arrives.
func (f *field) stopped(t *testing.T, p *pod) {
	t.Helper()
	for range 3 {
		token := f.frame(t, p)
		time.Sleep(silence)
		if n := f.there.saw(token); n > 0 {
			t.Errorf("%s: %d frames got out, want none", p.Pod(), n)
		}
	}
}
