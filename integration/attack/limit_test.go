package attack

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/attack/intruder"
	"github.com/podwall/podwall/integration/lab"
)

// What can't be stopped from inside the namespace. docs/threat-model.md says so
// in public; when one of these fails, podwall has become better than the page.
func TestLimit(t *testing.T) {
	t.Parallel()
	f := newField(t)
	for _, a := range limits() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.succeed(t, f, f.unprotected(t))
			token := newToken()
			p := f.protected(t, "jail")
			refused := p.act(t, a.act(f, p, token), a.needs)
			if !arrives(a.target(f), token) {
				t.Errorf("nothing arrives; has podwall learnt to stop this? the kernel said: %v", refused)
			}
		})
	}
}

// limits are attacks of pods that may configure their network.
func limits() []attack {
	admin, nesting := []int{intruder.NetAdmin}, []int{intruder.NetAdmin, intruder.SetFCap}
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
		{name: "eth0 taken into a nested namespace", needs: nesting, far: true, damage: true, act: nested(`
			ip link set eth0 netns $nested
			inside ip addr add $addr/24 dev eth0; inside ip link set eth0 up; inside ip route add default via $router`)},
		{name: "redirect by tc from a nested namespace", needs: nesting, far: true, damage: true, act: nested(`
			ip link add v0 type veth peer name v1 netns $nested; ip link set v0 up; tc qdisc add dev v0 clsact
			tc filter add dev v0 ingress u32 match u32 0 0 action mirred egress redirect dev eth0
			inside ip addr add $addr/24 dev v1; inside ip link set v1 up
			inside ip neigh add $router lladdr $router_mac dev v1; inside ip route add default via $router`)},
		{name: "nested namespace behind a macvlan with eth0's MAC", needs: nesting, far: true, damage: true, act: nested(`
			ip link add m0 link eth0 type macvlan mode passthru; ip link set m0 netns $nested
			ip addr flush dev eth0
			inside ip addr add $addr/24 dev m0; inside ip link set m0 up; inside ip route add default via $router`)},
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
	must(t, f.neighbour.act(t, acts(plain(at, nil, token)), nil))
	if !says.Scan() || says.Text() != "seen" {
		t.Errorf("the intruder says %q; has podwall learnt to stop this?", says.Text())
	}
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
