package attack

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// What podwall doesn't stop. docs/threat-model.md says so in public; when one of
// these fails, podwall has become better than the page.
func TestLimit(t *testing.T) {
	t.Parallel()
	f := newField(t)
	for _, a := range limits() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.succeed(t, f, "without podwall the attack does not succeed either", func() *pod { return f.unprotected(t) })
			var p *pod
			a.succeed(t, f, "has podwall learnt to stop this?", func() *pod { p = f.shut(t); return p })
			eventually(t, func() error { return f.told(p, a.told) })
		})
	}
}

// shut adds a pod of jail, out of which nothing comes without an attack.
func (f *field) shut(t *testing.T) *pod {
	t.Helper()
	p := f.protected(t, "jail")
	token := newToken()
	knock(t, p, token)
	if arrives(f.here, token) {
		t.Error("the pod was open before the attack")
	}
	return p
}

// told returns an error unless podwalld's log says some words of a pod.
func (f *field) told(p *pod, words string) error {
	log, err := os.ReadFile(f.LogFile())
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(log)) {
		if words == "" || strings.Contains(line, p.ID[:12]) && strings.Contains(line, words) {
			return nil
		}
	}
	return fmt.Errorf("podwalld does not say %q of %s", words, p.ID[:12])
}

// limits are attacks that podwall does not stop.
func limits() []attack {
	all := append(adminLimits(), deviceLimits()...)
	return append(all, attack{name: "AF_XDP socket", needs: []int{intruder.NetRaw}, act: func(f *field, p *pod, token []byte) intruder.Act {
		return acts(intruder.Send{Domain: unix.AF_XDP, Device: "eth0", Packets: [][]byte{whole(f, p, token)}})
	}})
}

// adminLimits are those of pods that may write rules and connections.
func adminLimits() []attack {
	admin := []int{intruder.NetAdmin}
	at := netip.AddrPortFrom(lab.World4, 8080)
	return []attack{
		{name: "connection marked by a rule", needs: admin, far: true, damage: true, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			return intruder.Act{
				Script: "nft 'table inet a { chain c { type filter hook output priority -1; ct mark set 0x10000; }; }'",
				Sends:  []intruder.Send{plain(at, nil, token)},
			}
		}},
		{name: "connection put into the table with a mark", needs: admin, far: true, damage: true, act: func(_ *field, p *pod, token []byte) intruder.Act {
			send := plain(at, nil, token)
			send.Bind = netip.AddrPortFrom(p.v4, 4444)
			return intruder.Act{
				Script: fmt.Sprintf("conntrack -I -p udp -s %s --sport 4444 -d %s --dport 8080 -t 60 -m 0x10000", p.v4, lab.World4),
				Sends:  []intruder.Send{send},
			}
		}},
		// Any address that is allowed will do; the node's is, always.
		{name: "packet rewritten after it was judged", needs: admin, far: true, damage: true, act: func(_ *field, _ *pod, token []byte) intruder.Act {
			return intruder.Act{
				Script: "nft 'table ip a { chain c { type filter hook output priority 500; ip daddr set 192.0.2.1; }; }'",
				Sends:  []intruder.Send{plain(netip.AddrPortFrom(lab.Uplink4, 8080), nil, token)},
			}
		}},
	}
}

// What a pod drops, a packet socket in it still sees: taps come before rules. No
// socket of the pod receives it.
func TestSniffing(t *testing.T) {
	t.Parallel()
	f := newField(t)
	p := f.protected(t, "jail")
	token := newToken()
	ctx, cancel := context.WithTimeout(t.Context(), settling)
	defer cancel()
	cmd, err := intruder.Command(ctx, intruder.Act{Sniff: token}, intruder.NetRaw)
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, p.Start(cmd))
	says := bufio.NewScanner(out)
	if !says.Scan() || says.Text() != "listening" {
		t.Fatalf("the intruder says %q", says.Text())
	}
	at := netip.AddrPortFrom(p.v4, 8080)
	socket, err := p.ListenPacket("udp", at.String())
	must(t, err)
	defer func() { _ = socket.Close() }()
	seen := make(chan bool, 1)
	go func() { seen <- says.Scan() && says.Text() == "seen" }()
	eventually(t, func() error {
		must(t, f.neighbour.act(t, acts(plain(at, nil, token)), nil))
		select {
		case ok := <-seen:
			if !ok {
				t.Fatalf("the intruder says %q", says.Text())
			}
			return nil
		case <-time.After(silence):
			return fmt.Errorf("has podwall learnt to stop this? %w", errSilence)
		}
	})
	must(t, cmd.Wait())
	must(t, socket.SetReadDeadline(time.Now().Add(silence)))
	if _, _, err := socket.ReadFrom(make([]byte, 100)); err == nil {
		t.Error("a socket received what policy denies")
	}
}

// Where rawSockets is allow, frames leave, whatever policy says.
func TestRawSocketsAllowed(t *testing.T) {
	t.Parallel()
	f := newField(t)
	entry := f.Podwall()
	entry["rawSockets"] = "allow"
	p := f.add(t, f.Network().WithChain(entry), "jail", "trusted")
	eventually(t, func() error {
		token := newToken()
		err := p.act(t, frame{kind: unix.SOCK_RAW, told: etherIPv4}.to(f, whole(f, p, token)), []int{intruder.NetRaw})
		if !arrives(f.there, token) {
			return cmp.Or(err, errSilence)
		}
		return nil
	})
	// It is not a way around the rules for packets.
	token := newToken()
	knock(t, p, token)
	if arrives(f.here, token) {
		t.Error("what policy denies leaves the pod through the IP stack")
	}
}
