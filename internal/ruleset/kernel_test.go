package ruleset_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// A conn is a connection as conntrack holds it, told from its first tracked
// packet: the tuple of that direction, and the tuple that replies have.
type conn struct {
	origSrc, replySrc                netip.Addr
	origSport, origDport, replySport uint16
	proto                            ruleset.Proto
	mark                             uint32
	leaving                          bool // its first tracked packet left the pod
	confirmed                        bool // a packet of it was accepted
	syn                              bool // its first tracked packet opened a TCP connection
	ingressPort, egressPort          uint16
	peer                             netip.Addr
}

// String is for failures.
func (c *conn) String() string {
	from := "arriving"
	if c.leaving {
		from = "leaving"
	}
	return fmt.Sprintf("%s %d to %d, replies from %s %d, proto %d, first seen %s, syn %v, mark %#x",
		c.origSrc, c.origSport, c.origDport, c.replySrc, c.replySport, c.proto, from, c.syn, c.mark)
}

// A packet is one packet of a conn.
type packet struct {
	*conn        // nil: conntrack knows nothing of it
	reply  bool  // in the direction opposite to the first tracked packet
	other  bool  // through another device
	icmpv6 uint8 // its type, if it is ICMPv6
}

// A kernel walks a Table as nftables would. It shares no code with Lower.
type kernel struct {
	t       testing.TB
	table   ruleset.Table
	counted []string // the counters that the last packet met
	logged  []string // what it was logged as
	beyond  bool     // more was logged already than the limit allows
}

// send puts p through the hook it meets and reports whether it passes.
func (k *kernel) send(hook ruleset.Hook, p packet) bool {
	k.t.Helper()
	k.counted, k.logged = nil, nil
	for _, b := range k.table.Blocks {
		if b.Hook == hook {
			v := k.walk(b.Name, p, 0)
			return v == ruleset.VerdictAccept // the policy of a hooked block is drop
		}
	}
	k.t.Fatalf("table has no block for hook %d", hook)
	return false
}

// walk returns the verdict of a block, VerdictContinue if it has none.
func (k *kernel) walk(name string, p packet, depth int) ruleset.VerdictKind {
	k.t.Helper()
	i := slices.IndexFunc(k.table.Blocks, func(b ruleset.Block) bool { return b.Name == name })
	if i < 0 || depth > 15 {
		k.t.Fatalf("block %q at depth %d: missing, or the table loops", name, depth)
	}
	for _, l := range k.table.Blocks[i].Lines {
		if slices.ContainsFunc(l.Conds, func(c ruleset.Cond) bool { return !k.holds(c, p) }) {
			continue
		}
		if l.Mark != (ruleset.MarkOp{}) {
			p.mark = p.mark&l.Mark.And | l.Mark.Or
		}
		if l.Counter != "" {
			k.counted = append(k.counted, l.Counter)
		}
		if l.Log != "" {
			k.logged = append(k.logged, l.Log)
		}
		switch v := l.Verdict; v.Kind {
		case ruleset.VerdictContinue:
		case ruleset.VerdictGoto:
			return k.walk(v.Target, p, depth+1)
		case ruleset.VerdictMap:
			if block := k.lookUp(v, p); block != "" {
				if got := k.walk(block, p, depth+1); got != ruleset.VerdictContinue {
					return got
				}
			}
		case ruleset.VerdictJump:
			if got := k.walk(v.Target, p, depth+1); got != ruleset.VerdictContinue {
				return got
			}
		default:
			return v.Kind
		}
	}
	return ruleset.VerdictContinue
}

// lookUp returns the block that a map leads p to, if any.
func (k *kernel) lookUp(v ruleset.Verdict, p packet) string {
	for _, s := range k.table.Sets {
		if s.Name != v.Target || s.Targets == nil {
			continue
		}
		one := *k // whose set holds one of the map's addresses
		for i := range s.Elements {
			one.table.Sets = []ruleset.Set{{Name: s.Name, V6: s.V6, Elements: s.Elements[i : i+1]}}
			if one.holds(ruleset.Cond{Key: v.Key, Set: s.Name}, p) {
				return s.Targets[i]
			}
		}
	}
	return ""
}

func (p packet) port(key ruleset.Key) uint16 {
	switch key {
	case ruleset.KeyOrigSport:
		return p.origSport
	case ruleset.KeyOrigDport:
		return p.origDport
	case ruleset.KeyReplySport:
		return p.replySport
	}
	panic(fmt.Sprintf("key %d is no port", key))
}

// holds is the meaning of a condition. One on a connection holds for no packet
// that belongs to none.
func (k *kernel) holds(c ruleset.Cond, p packet) bool {
	switch c.Key {
	case ruleset.KeyBeyond:
		return k.beyond
	case ruleset.KeyNotIn, ruleset.KeyNotOut:
		return p.other
	case ruleset.KeyFromProcess, ruleset.KeyIPOption, ruleset.KeyLoopback:
		return false // these packets are the kernel's own, without options, on no loopback
	case ruleset.KeyICMPv6:
		return c.First <= uint32(p.icmpv6) && uint32(p.icmpv6) <= c.Last
	case ruleset.KeyProto:
		if p.icmpv6 != 0 {
			return c.First == 58
		}
		return p.conn != nil && c.First == uint32(p.proto)
	}
	if p.conn == nil {
		return false
	}
	switch c.Key {
	case ruleset.KeyMark:
		return p.mark&c.Mask == c.First
	case ruleset.KeyNew:
		return !p.confirmed
	case ruleset.KeyNoSYN:
		return p.proto == ruleset.TCP && !p.syn
	case ruleset.KeyDirection:
		return (c.First == ruleset.DirectReply) == p.reply
	case ruleset.KeyOrigSaddr4, ruleset.KeyOrigSaddr6:
		return k.inSet(c, p.origSrc, c.Key == ruleset.KeyOrigSaddr6)
	case ruleset.KeyReplySaddr4, ruleset.KeyReplySaddr6:
		return k.inSet(c, p.replySrc, c.Key == ruleset.KeyReplySaddr6)
	}
	port := uint32(p.port(c.Key))
	return c.First <= port && port <= c.Last
}

func (k *kernel) inSet(c ruleset.Cond, a netip.Addr, v6 bool) bool {
	i := slices.IndexFunc(k.table.Sets, func(s ruleset.Set) bool { return s.Name == c.Set })
	if i < 0 || k.table.Sets[i].V6 != v6 {
		k.t.Fatalf("condition %+v on a set that is missing or of the other family", c)
	}
	return a.Is6() == v6 && slices.ContainsFunc(k.table.Sets[i].Elements, func(e netip.Prefix) bool { return e.Contains(a) })
}

// The far end and the pod, in a world small enough for collisions.
var (
	addrs = []string{"10.0.0.2", "10.0.0.3", "10.0.0.9", "10.0.1.3", "192.0.2.1", "fd00::2", "fd00::3", "fd00:1::3", "2001:db8::1"}
	nets  = []string{"10.0.0.3/32", "10.0.0.0/24", "10.0.0.8/30", "10.0.0.0/8", "0.0.0.0/0", "fd00::3/128", "fd00::/64", "fd00::/16", "::/0"}
	ports = []uint16{0, 1, 79, 80, 81, 443, 8000, 8005, 8010, 8011, 65534, 65535}
	proto = []ruleset.Proto{ruleset.TCP, ruleset.UDP, ruleset.SCTP, 1}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomPorts(r *rand.Rand) ruleset.Ports {
	switch r.IntN(8) {
	case 0:
		return ruleset.AnyPort
	case 1:
		return ruleset.AllPorts(pick(r, proto[:3]))
	case 2:
		return ruleset.Ports{}
	}
	p := ruleset.Ports{Proto: pick(r, proto[:3]), First: pick(r, ports)}
	p.Last = p.First
	if r.IntN(2) == 0 {
		p.Last = pick(r, ports) // may lie before First: then it holds no port
	}
	return p
}

func randomPeers(r *rand.Rand) ruleset.Peers {
	if r.IntN(6) == 0 {
		return ruleset.Everyone
	}
	var ps []netip.Prefix
	for range r.IntN(4) {
		ps = append(ps, netip.MustParsePrefix(pick(r, nets)))
	}
	return ruleset.NewPeers(ps)
}

func randomTier(r *rand.Rand, name string, rules int) ruleset.Tier {
	t := ruleset.Tier{Name: name, Default: pick(r, []ruleset.Action{ruleset.Drop, ruleset.Accept, ruleset.Pass, ruleset.Pass})}
	uniform := r.IntN(2) == 0
	for i := range rules {
		rule := ruleset.Rule{Origin: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "p"}, Index: i, Action: ruleset.Accept}
		if !uniform && r.IntN(4) == 0 {
			rule.Action = pick(r, []ruleset.Action{ruleset.Drop, ruleset.Pass})
		}
		for range 1 + r.IntN(2) {
			m := ruleset.Match{Peers: randomPeers(r)}
			for range 1 + r.IntN(3) {
				m.Ports = append(m.Ports, randomPorts(r))
			}
			rule.Matches = append(rule.Matches, m)
		}
		t.Rules = append(t.Rules, rule)
	}
	return t
}

// crowd is a tier of many rules for one port, each with peers of its own.
func crowd(r *rand.Rand, name string) ruleset.Tier {
	t := ruleset.Tier{Name: name, Default: pick(r, []ruleset.Action{ruleset.Drop, ruleset.Pass})}
	port := pick(r, []ruleset.Ports{ruleset.AnyPort, ruleset.AllPorts(ruleset.TCP), {Proto: ruleset.TCP, First: 80, Last: 80}})
	for i := range 13 + r.IntN(20) {
		var ps []netip.Prefix
		for range 1 + r.IntN(3) {
			a := netip.MustParseAddr(pick(r, addrs))
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		}
		t.Rules = append(t.Rules, ruleset.Rule{Origin: ruleset.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "p"}, Index: i,
			Action: ruleset.Accept, Matches: []ruleset.Match{{Peers: ruleset.NewPeers(ps), Ports: []ruleset.Ports{port}}}})
	}
	return t
}

func randomChain(r *rand.Rand) ruleset.Chain {
	c := ruleset.Chain{Default: pick(r, []ruleset.Action{ruleset.Drop, ruleset.Accept, ruleset.Pass})}
	for _, name := range []string{ruleset.TierNode, ruleset.TierAdmin, ruleset.TierPolicy, ruleset.TierBaseline} {
		switch r.IntN(5) {
		case 4:
			c.Tiers = append(c.Tiers, crowd(r, name))
		case 0:
			c.Tiers = append(c.Tiers, randomTier(r, name, r.IntN(4)))
		case 1:
			c.Tiers = append(c.Tiers, randomTier(r, name, r.IntN(30))) // enough to be dispatched
		}
	}
	return c
}

func randomRuleSet(r *rand.Rand) ruleset.RuleSet {
	rs := ruleset.RuleSet{Ingress: randomChain(r), Egress: randomChain(r), Adopted: ruleset.Adoption(r.IntN(3)),
		Log: ruleset.Logging{Drops: r.IntN(2) == 0, Accepts: r.IntN(4) == 0}, Audit: r.IntN(4) == 0}
	for _, a := range []string{"10.0.0.2", "fd00::2"} {
		if r.IntN(2) == 0 {
			rs.Addresses = append(rs.Addresses, netip.MustParseAddr(a))
		}
	}
	return rs
}

// randomConn is a connection nobody has judged yet. Translation inside the pod
// may have changed the ports: of what arrives, where it really goes, which no
// rule is about; of what leaves, where the pod thought it goes.
func randomConn(r *rand.Rand) *conn {
	pod, peer := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr(pick(r, addrs))
	if peer.Is6() {
		pod = netip.MustParseAddr("fd00::2")
	}
	c := &conn{peer: peer, proto: pick(r, proto), leaving: r.IntN(2) == 0, syn: r.IntN(2) == 0, mark: 1337}
	podPort, peerPort := pick(r, ports), pick(r, ports)
	c.ingressPort, c.egressPort = podPort, peerPort
	if c.leaving {
		c.origSrc, c.origSport, c.replySrc, c.replySport = pod, podPort, peer, peerPort
		c.origDport = pick(r, ports)
	} else {
		c.origSrc, c.origSport, c.origDport, c.replySrc = peer, peerPort, podPort, pod
		c.replySport = pick(r, ports)
	}
	return c
}

// hookOf is where a packet of c in a direction is judged.
func (c *conn) hookOf(reply bool) ruleset.Hook {
	if c.leaving != reply {
		return ruleset.Postrouting
	}
	return ruleset.Prerouting
}

// allowed is what must become of c: Decide, for whoever opened it. Of a flow
// that may be older than the rules nobody knows, and either may have; what an
// audit lets pass counts the way its first tracked packet went only.
func (c *conn) allowed(rs ruleset.RuleSet, old bool) bool {
	d, port, other, otherPort := ruleset.Ingress, c.ingressPort, ruleset.Egress, c.egressPort
	if c.leaving {
		d, port, other, otherPort = other, otherPort, d, port
	}
	return rs.Enforced(d).Decide(c.peer, c.proto, port).Action == ruleset.Accept ||
		old && rs.Chain(other).Decide(c.peer, c.proto, otherPort).Action == ruleset.Accept
}

// mayBeOld says whether rs takes c for a flow whose beginning nobody saw.
func (c *conn) mayBeOld(rs ruleset.RuleSet) bool {
	return (rs.Adopted >= ruleset.AdoptedTCP && c.proto == ruleset.TCP && !c.syn) ||
		(rs.Adopted >= ruleset.AdoptedNow && c.proto == ruleset.UDP)
}

// Lower means what Decide means: for the first packet of a flow, for every later
// one in either direction, and, when the rules and the epoch have changed, for
// the next one, whichever way it goes.
func TestLoweredTableDecidesLikeDecide(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 0))
		before, after := randomRuleSet(r), randomRuleSet(r)
		after.Adopted = before.Adopted
		epoch := ruleset.Epoch(r.IntN(int(ruleset.MaxEpoch)) + 1)
		first := &kernel{t: t, table: before.Lower("eth0", epoch)}
		then := &kernel{t: t, table: after.Lower("eth0", epoch.Next())}
		checkTable(t, first.table)
		for range 40 {
			c := randomConn(r)
			old := c.mayBeOld(before)
			want := c.allowed(before, old)
			if got := first.send(c.hookOf(false), packet{conn: c}); got != want {
				t.Fatalf("seed %d: first packet of %v passes: %v, want %v\n%s", seed, c, got, want, before.Text("eth0"))
			}
			checkLogged(t, first, before, c, want)
			if !want {
				continue
			}
			checkCounted(t, first, before, c)
			c.confirmed = true
			for _, reply := range []bool{true, false} {
				if !first.send(c.hookOf(reply), packet{conn: c, reply: reply}) {
					t.Fatalf("seed %d: later packet of %v, reply %v, is dropped", seed, c, reply)
				}
			}
			if got := c.mark & 0xffff; got != 1337 {
				t.Fatalf("seed %d: others' half of the mark is %d, want 1337", seed, got)
			}
			reply := r.IntN(2) == 0
			want = c.allowed(after, old)
			if got := then.send(c.hookOf(reply), packet{conn: c, reply: reply}); got != want {
				t.Fatalf("seed %d: packet of %v after the change, reply %v, passes: %v, want %v\n%s", seed, c, reply, got, want, after.Text("eth0"))
			}
		}
	}
}

// checkCounted checks that whatever counted c's packet is a rule that c meets.
func checkCounted(t *testing.T, k *kernel, rs ruleset.RuleSet, c *conn) {
	t.Helper()
	for _, name := range k.counted {
		about := ruleset.AuditCounter("eth0", ruleset.Ingress) == name || ruleset.AuditCounter("eth0", ruleset.Egress) == name
		if !about && !slices.Contains(rulesMet(rs, c), name) {
			t.Fatalf("%v is counted by %s, a rule it does not meet", c, name)
		}
	}
}

// rulesMet returns the names of the counters of all rules that c meets.
func rulesMet(rs ruleset.RuleSet, c *conn) []string {
	var names []string
	for d, port := range map[ruleset.Direction]uint16{ruleset.Ingress: c.ingressPort, ruleset.Egress: c.egressPort} {
		for _, tier := range rs.Chain(d).Tiers {
			for _, r := range tier.Rules {
				if slices.ContainsFunc(r.Matches, func(m ruleset.Match) bool {
					return m.Peers.Contains(c.peer) && slices.ContainsFunc(m.Ports, func(p ruleset.Ports) bool { return p.Contains(c.proto, port) })
				}) {
					names = append(names, fmt.Sprintf("eth0/%s/%s/shop/p/%d", d, tier.Name, r.Index))
				}
			}
		}
	}
	return names
}

// What no rule of a pod is about.
func TestBeforePolicy(t *testing.T) {
	k := &kernel{t: t, table: ruleset.RuleSet{}.Lower("eth0", 1)}
	tests := []struct {
		name string
		p    packet
		want bool
	}{
		{"packet of another device", packet{other: true}, true},
		{"neighbour solicitation", packet{icmpv6: 135}, true},
		{"multicast listener report", packet{icmpv6: 143}, true},
		{"echo request without a connection", packet{icmpv6: 128}, false},
		{"packet that belongs to no connection", packet{}, false},
	}
	for _, tt := range tests {
		for _, hook := range []ruleset.Hook{ruleset.Prerouting, ruleset.Postrouting} {
			if got := k.send(hook, tt.p); got != tt.want {
				t.Errorf("%s at hook %d passes: %v, want %v", tt.name, hook, got, tt.want)
			}
		}
	}
}
