package policy

import (
	"encoding/binary"
	"net/netip"
	"unique"

	"github.com/podwall/podwall/internal/ruleset"
)

// A held policy is a Policy as a World keeps it, of which there may be 75,000: what
// is not its name is one string, which is in memory once however many namespaces
// have the same policies. Few select pods of this node, and these alone are
// spelled out. It does not change: a Policy that differs is another.
type held struct {
	Ref  ruleset.Ref
	text unique.Handle[string]
	full *Policy // nil unless it has been asked for lately
}

func hold(p *Policy) *held {
	return &held{Ref: p.Ref, text: textOf(p)}
}

// policy is the Policy that h was made of.
func (w *World) policy(h *held) *Policy {
	if h.full == nil {
		h.full = h.public()
		w.spelled = append(w.spelled, h)
	}
	return h.full
}

// public is policy for those who ask once.
func (h *held) public() *Policy {
	r := reader{rest: h.text.Value(), own: h.Ref.Namespace}
	p := r.policy()
	p.Ref = h.Ref
	return &p
}

// fold lets go of the policies that are spelled out.
func (w *World) fold() {
	for _, h := range w.spelled {
		h.full = nil
	}
	w.spelled = nil
}

// The text of a Policy is all of it but its name, in the order of its fields, with
// the length before each list and string. Numbers are varints. The Policy's own
// namespace is not named, so that the same policy of another has the same text.
func textOf(p *Policy) unique.Handle[string] {
	t := text{b: make([]byte, 0, 512), own: p.Ref.Namespace} // on the stack
	t.number(int(p.Layer))
	t.number(p.Priority)
	t.set(&p.Subject)
	t.side(&p.Ingress)
	t.side(&p.Egress)
	t.string(p.Broken)
	return unique.Make(string(t.b))
}

// A text is written to by its methods.
type text struct {
	b   []byte
	own string
}

func (t *text) number(n int)    { t.b = binary.AppendVarint(t.b, int64(n)) }
func (t *text) string(s string) { t.b = appendText(t.b, s) }

func (t *text) flag(f bool) {
	if f {
		t.number(1)
	} else {
		t.number(0)
	}
}

func (t *text) set(s *PodSet) {
	own := s.Namespace != "" && s.Namespace == t.own
	if t.flag(own); !own {
		t.string(s.Namespace)
	}
	t.selector(&s.Namespaces)
	t.selector(&s.Pods)
}

func (t *text) selector(s *Selector) {
	t.flag(s.All)
	t.number(len(s.Needs))
	for _, n := range s.Needs {
		t.string(n.Key)
		t.number(int(n.Op))
		t.number(len(n.Values))
		for _, v := range n.Values {
			t.string(v)
		}
	}
}

func (t *text) side(s *Side) {
	t.flag(s.Applies)
	t.number(len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		t.number(int(r.Action))
		t.number(len(r.Peers))
		for j := range r.Peers {
			t.peer(&r.Peers[j])
		}
		t.number(len(r.Ports))
		for _, p := range r.Ports {
			t.string(p.Name)
			t.number(int(p.Ports.Proto))
			t.number(int(p.Ports.First))
			t.number(int(p.Ports.Last))
		}
	}
}

func (t *text) peer(p *Peer) {
	t.flag(p.Any)
	t.set(&p.Pods)
	t.number(len(p.Block))
	for _, block := range p.Block {
		t.string(string(block.Addr().AsSlice()))
		t.number(block.Bits())
	}
}

// A reader takes from the front of what a text's methods have written, in the same
// order. The strings that it returns are parts of it.
type reader struct {
	rest string
	own  string
}

func (r *reader) number() int {
	var n uint64
	for i := range len(r.rest) {
		n |= uint64(r.rest[i]&0x7f) << (7 * i)
		if r.rest[i] < 0x80 {
			r.rest = r.rest[i+1:]
			break
		}
	}
	return int(n>>1) ^ -int(n&1) // as varints are signed
}

func (r *reader) string() (s string) {
	s, r.rest = cutText(r.rest)
	return s
}

func (r *reader) flag() bool { return r.number() == 1 }

// list reads as many values as their number in front says; nil if there are none.
func list[T any](r *reader, value func() T) []T {
	n := r.number()
	if n == 0 {
		return nil
	}
	l := make([]T, n)
	for i := range l {
		l[i] = value()
	}
	return l
}

func (r *reader) policy() Policy {
	return Policy{Layer: Layer(r.number()), Priority: r.number(), Subject: r.set(), Ingress: r.side(), Egress: r.side(), Broken: r.string()}
}

func (r *reader) set() PodSet {
	namespace := r.own
	if !r.flag() {
		namespace = r.string()
	}
	return PodSet{Namespace: namespace, Namespaces: r.selector(), Pods: r.selector()}
}

func (r *reader) selector() Selector { return Selector{All: r.flag(), Needs: list(r, r.need)} }

func (r *reader) need() Need {
	return Need{Key: r.string(), Op: Op(r.number()), Values: list(r, r.string)}
}

func (r *reader) side() Side { return Side{Applies: r.flag(), Rules: list(r, r.rule)} }

func (r *reader) rule() Rule {
	return Rule{Action: ruleset.Action(r.number()), Peers: list(r, r.peer), Ports: list(r, r.port)}
}

func (r *reader) peer() Peer { return Peer{Any: r.flag(), Pods: r.set(), Block: list(r, r.prefix)} }

func (r *reader) prefix() netip.Prefix {
	a, _ := netip.AddrFromSlice([]byte(r.string())) // the zero Addr where there was none
	return netip.PrefixFrom(a, r.number())
}

func (r *reader) port() Port {
	return Port{Name: r.string(), Ports: ruleset.Ports{Proto: ruleset.Proto(r.number()), First: uint16(r.number()), Last: uint16(r.number())}}
}
