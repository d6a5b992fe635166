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
		netns, err := namespaceOf(q.fd)
		if err != nil {
			continue
		}
		now, err := h.hiddenIn(netns, q.target.attachment.Interface)
		_ = unix.Close(netns)
		if err == nil {
			h.told(q.target, now)
		}
	}
}

// A question is about the counters of a target.
type question struct {
	target *target
	fd     int // the socket's, of the caller's own
}

// stirred returns the targets that have logged something since the last time.
func (h *Hub) stirred() []question {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []question
	for _, ns := range h.namespaces {
		for _, t := range ns.targets {
			if t.stirred {
				list = append(list, question{t, ns.fd})
				t.stirred = false
			}
		}
	}
	return list
}

// told notes what the counters say and tells the difference.
func (h *Hub) told(t *target, now hidden) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := t.hidden
	t.hidden = now
	if t.unread {
		t.unread = false
		return
	}
	if now.drops < was.drops || now.accepts < was.accepts {
		was = hidden{} // the counters were made anew
	}
	d := api.Hidden{Namespace: t.attachment.Namespace, Pod: podName(t.attachment), ContainerID: t.attachment.ContainerID,
		Interface: t.attachment.Interface, Drops: now.drops - was.drops, Accepts: now.accepts - was.accepts}
	if d.Drops+d.Accepts == 0 {
		return
	}
	t.stirred = true // there may be more
	h.stats.Hidden += d.Drops + d.Accepts
	h.kept.Hidden += d.Drops + d.Accepts
	for _, m := range h.monitors {
		m.conceal(d)
	}
}
