package events

import (
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// hidden is what an attachment's rules have counted instead of logging it.
type hidden struct{ drops, accepts uint64 }

// hiddenIn reads the counters of an attachment.
func (h *Hub) hiddenIn(netns int, iface string) (hidden, error) {
	counts, err := h.Counters(netns)
	if err != nil {
		return hidden{}, err
	}
	return hidden{
		drops:   counts[ruleset.HiddenCounter(iface)].Packets + counts[ruleset.HiddenGuardCounter(iface)].Packets,
		accepts: counts[ruleset.HiddenAcceptsCounter(iface)].Packets,
	}, nil
}

// tellHidden tells how much more was hidden. Only where something was logged may
// anything be beyond the limit, so only there the kernel is asked.
func (h *Hub) tellHidden() {
	for _, q := range h.stirred() {
		now, err := h.hiddenIn(q.netns, q.iface)
		_ = unix.Close(q.netns)
		if err != nil {
			continue
		}
		if d := h.more(q.target, now); d.Drops+d.Accepts > 0 {
			h.conceal(d)
		}
	}
}

// A question is about the counters of a target.
type question struct {
	target *target
	iface  string
	netns  int // a descriptor of the caller's own
}

// stirred returns the targets that have logged something since the last time.
// The caller closes their namespaces.
func (h *Hub) stirred() []question {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	var list []question
	for _, ns := range h.namespaces {
		for _, t := range ns.targets {
			if !t.stirred {
				continue
			}
			t.stirred = false
			if netns, err := namespaceOf(ns.fd); err == nil { // else it is asked when it logs again
				list = append(list, question{t, t.attachment.Interface, netns})
			}
		}
	}
	return list
}

// more notes what the counters say and returns by how much that is more.
func (h *Hub) more(t *target, now hidden) (d api.Hidden) {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	was := t.hidden
	t.hidden = now
	if t.unread {
		t.unread = false
		return d
	}
	if now.drops < was.drops || now.accepts < was.accepts {
		was = hidden{} // the counters were made anew
	}
	d = api.Hidden{Namespace: t.attachment.Namespace, Pod: podName(t.attachment), ContainerID: t.attachment.ContainerID,
		Interface: t.attachment.Interface, Drops: now.drops - was.drops, Accepts: now.accepts - was.accepts}
	t.stirred = t.stirred || d.Drops+d.Accepts > 0 // there may be more
	return d
}
