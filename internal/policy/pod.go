package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"unique"

	"github.com/podwall/podwall/internal/ruleset"
)

// A pod is a Pod as a World keeps it, of which there may be 100,000: what is the
// same in many pods is in memory once. It does not change: a Pod that differs is
// another pod.
type pod struct {
	in    *namespace
	name  string
	uid   string
	tags  tags
	ports ports
	node  unique.Handle[string]
	class unique.Handle[string]
	addrs []netip.Addr
	marks
}

// marks are what of a pod is small.
type marks struct {
	admin                  Grant
	hostNetwork, done, raw bool
	audit, observe         Wish
}

func podOf(in *namespace, p *Pod) *pod {
	return &pod{
		in: in, name: p.Name, uid: p.UID, tags: tagsOf(p.Labels), ports: portsOf(p.Ports),
		node: unique.Make(p.Node), class: unique.Make(p.RuntimeClass), addrs: slices.Clip(p.Addresses),
		marks: marks{p.NetAdmin, p.HostNetwork, p.Done, p.RawSockets, p.Audit, p.Observe},
	}
}

// public is the Pod that p was made of.
func (p *pod) public() Pod {
	return Pod{
		Namespace: p.in.name, Name: p.name, UID: p.uid, Labels: p.tags.labels(), Ports: p.ports.list(),
		Node: p.node.Value(), RuntimeClass: p.class.Value(), Addresses: p.addrs,
		NetAdmin: p.admin, HostNetwork: p.hostNetwork, Done: p.done, RawSockets: p.raw, Audit: p.audit, Observe: p.observe,
	}
}

// same reports whether p and q are of the same Pod.
func (p *pod) same(q *pod) bool {
	return p.uid == q.uid && p.tags == q.tags && p.ports == q.ports && p.node == q.node && p.class == q.class &&
		slices.Equal(p.addrs, q.addrs) && p.marks == q.marks
}

// plain are p's addresses, each once.
func (p *pod) plain() []netip.Addr {
	if len(p.addrs) == 1 && p.addrs[0] == plain(p.addrs[0]) {
		return p.addrs // which nearly always is so
	}
	return distinct(p.addrs)
}

// peer reports whether selectors may pick p.
func (p *pod) peer() bool { return !p.done && !p.hostNetwork }

// inSet reports whether p is one of s.
func (p *pod) inSet(s *PodSet) bool { return p.peer() && s.inside(p.in) && picks(s.Pods, p.tags) }

// ports are the named ports of a pod, in one string that is in memory once.
type ports struct{ text unique.Handle[string] }

func portsOf(list []NamedPort) ports {
	var b []byte
	for _, p := range list {
		b = append(appendText(b, p.Name), byte(p.Proto))
		b = binary.BigEndian.AppendUint16(b, p.Port)
	}
	return ports{unique.Make(string(b))}
}

func (p ports) all(yield func(NamedPort) bool) {
	for rest := p.text.Value(); rest != ""; {
		var n NamedPort
		n.Name, rest = cutText(rest)
		n.Proto, n.Port = ruleset.Proto(rest[0]), uint16(rest[1])<<8|uint16(rest[2])
		rest = rest[3:]
		if !yield(n) {
			return
		}
	}
}

// list is what p was made of; nil if that was empty.
func (p ports) list() []NamedPort { return slices.Collect(p.all) }
