package events

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/private"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Hub listens to what rules log and tells it to whoever asks. Its exported
// fields are set before the first call; its methods may be called from any
// goroutine.
type Hub struct {
	Log *slog.Logger
	// Name says whose an address is, with labels. It is called without any of the
	// Hub's locks.
	Name func(netip.Addr) api.End
	// Counters reads a namespace's counters.
	Counters func(netns int) (map[string]nft.Count, error)

	*journal
	poll int     // an epoll descriptor, of the sockets
	wake *poller // the runtime's view of it

	// sockets guards what follows. Whoever applies rules waits for it, so nobody
	// holds it who waits for the journal, which may write a file.
	sockets    sync.Mutex
	namespaces map[namespaceID]*namespace
	byFD       map[int32]*namespace
	attached   map[api.Key]namespaceID
	taken      map[api.Key]string // what is wrong with those that are not heard
	said       map[api.Key]string // of that, in the log
}

// A namespaceID identifies a network namespace.
type namespaceID struct{ device, inode uint64 }

// A namespace is one with rules that log.
type namespace struct {
	id       namespaceID
	fd       int
	next     uint32 // the sequence number to come
	begun    bool   // next is known
	flood    flood
	targets  map[string]*target // by the prefix of their names
	attached map[string]api.Key
}

// Stats count since the daemon's start.
type Stats struct {
	Events    map[ruleset.Fate]uint64
	Lost      uint64 // between kernel and daemon
	Hidden    uint64 // beyond the limit
	Skipped   uint64 // by monitors that were too slow
	Malformed uint64 // datagrams that could not be read
	Listening int    // namespaces
	Taken     int    // attachments whose log another process has
}

// New returns a Hub that keeps what it observes in dir, which only root may be
// able to write to, and knows what is there from before. With an empty dir it
// keeps nothing. The caller closes it. What can't be read is left out, and said
// in note.
func New(dir string) (h *Hub, note error, err error) {
	h = &Hub{
		journal:    newJournal(time.Now().UTC()),
		namespaces: map[namespaceID]*namespace{}, byFD: map[int32]*namespace{},
		attached: map[api.Key]namespaceID{}, taken: map[api.Key]string{}, said: map[api.Key]string{},
	}
	if h.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("watch sockets: %w", err)
	}
	if h.wake, err = newPoller(h.poll); err != nil {
		return nil, nil, errors.Join(err, unix.Close(h.poll))
	}
	if dir == "" {
		return h, nil, nil
	}
	if err := private.MakeDir(dir); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("events: %w", err), h.Close())
	}
	return h, h.journal.open(dir), nil
}

// Close closes all sockets.
func (h *Hub) Close() error {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	for _, ns := range h.namespaces {
		_ = unix.Close(ns.fd)
	}
	clear(h.namespaces)
	clear(h.byFD)
	return h.wake.close()
}

// Listen says whose rules stand in a namespace, of which netns is a descriptor.
// Rules that log nothing end the listening. Again is harmless, and cheap where
// revision is the same. What goes wrong is logged, once, and tried at the next
// call.
func (h *Hub) Listen(a api.Attachment, revision string, rs ruleset.RuleSet, netns int) {
	id, err := identify(netns)
	if err != nil {
		h.Log.Error("listen to what rules log", "pod", a.Pod(), "error", err)
		return
	}
	h.sockets.Lock()
	defer h.sockets.Unlock()
	if was, ok := h.attached[a.Key]; ok && (was != id || !logs(rs)) {
		h.leave(a.Key)
	}
	if !logs(rs) {
		return
	}
	ns, err := h.enter(id, netns)
	if err != nil {
		h.complain(a, err)
		return
	}
	delete(h.taken, a.Key)
	prefix := ruleset.Prefix(a.Interface)
	t := ns.targets[prefix]
	if t == nil || ns.attached[prefix] != a.Key {
		t = &target{unread: true, stirred: true}
		ns.targets[prefix], ns.attached[prefix], h.attached[a.Key] = t, a.Key, id
	}
	if t.attachment = a; t.revision != revision {
		t.change(revision, rs)
	}
}

// logs reports whether rules of rs log anything.
func logs(rs ruleset.RuleSet) bool { return rs.Log.Drops || rs.Log.Accepts || rs.Audit }

// identify tells namespaces apart.
func identify(netns int) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(netns, &st); err != nil {
		return namespaceID{}, fmt.Errorf("stat network namespace: %w", err)
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// enter returns the namespace, listening. h.sockets is held.
func (h *Hub) enter(id namespaceID, netns int) (*namespace, error) {
	if ns := h.namespaces[id]; ns != nil {
		return ns, nil
	}
	fd, err := openSocket(netns)
	if err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(h.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return nil, errors.Join(fmt.Errorf("watch socket: %w", err), unix.Close(fd))
	}
	ns := &namespace{id: id, fd: fd, targets: map[string]*target{}, attached: map[string]api.Key{}}
	h.namespaces[id], h.byFD[int32(fd)] = ns, ns
	return ns, nil
}

// complain says once that an attachment's log can't be heard. h.sockets is held.
func (h *Hub) complain(a api.Attachment, err error) {
	h.taken[a.Key] = err.Error()
	if h.said[a.Key] == err.Error() {
		return
	}
	h.said[a.Key] = err.Error()
	h.Log.Warn("what the rules log is not heard; its drops are counted all the same",
		"pod", a.Pod(), "attachment", a.Key.String(), "error", err)
}

// Forget ends the listening for an attachment. One that is not known is no
// error. What the kernel has logged of it already is still read if another
// attachment keeps the socket open.
func (h *Hub) Forget(key api.Key) {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	h.leave(key)
	delete(h.taken, key)
	delete(h.said, key)
}

// leave closes the namespace's socket after its last attachment. h.sockets is
// held.
func (h *Hub) leave(key api.Key) {
	id, ok := h.attached[key]
	if !ok {
		return
	}
	delete(h.attached, key)
	ns := h.namespaces[id]
	for prefix, k := range ns.attached {
		if k == key {
			delete(ns.attached, prefix)
			delete(ns.targets, prefix)
		}
	}
	if len(ns.attached) > 0 {
		return
	}
	delete(h.namespaces, id)
	delete(h.byFD, int32(ns.fd))
	_ = unix.Close(ns.fd) // which takes it out of the epoll set, too
}

// Problems are the attachments whose log can't be heard.
func (h *Hub) Problems() []api.Problem {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	var list []api.Problem
	for key, text := range h.taken {
		list = append(list, api.Problem{Object: "attachment " + key.String(), Message: "its events are not seen: " + text})
	}
	return list
}

// Stats returns the counts so far.
func (h *Hub) Stats() Stats {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	s := h.journal.counts()
	s.Listening, s.Taken = len(h.namespaces), len(h.taken)
	return s
}
