package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

const (
	flushEvery = 500 * time.Millisecond // events to their files
	tellEvery  = time.Second            // of what is hidden
	saveEvery  = 10 * time.Second       // flows to their file
	atOnce     = 64                     // datagrams of one socket before it is another's turn
)

// A poller waits until an epoll set has something, without a thread of its own:
// the runtime's poller watches the set as it watches any descriptor.
type poller struct {
	file *os.File
	raw  syscall.RawConn
}

func newPoller(epoll int) (*poller, error) {
	if err := unix.SetNonblock(epoll, true); err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(epoll), "epoll")}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	return p, nil
}

func (p *poller) close() error { return p.file.Close() }

// wait returns the sockets that have something, or none if there is nothing
// before the deadline.
func (p *poller) wait(deadline time.Time, into []unix.EpollEvent) ([]unix.EpollEvent, error) {
	if err := p.file.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	var n int
	var err error
	readErr := p.raw.Read(func(fd uintptr) bool {
		if n, err = unix.EpollWait(int(fd), into, 0); errors.Is(err, unix.EINTR) {
			err = nil
		}
		return n > 0 || err != nil
	})
	if readErr != nil && !errors.Is(readErr, os.ErrDeadlineExceeded) {
		return nil, readErr
	}
	return into[:max(n, 0)], err
}

// Run reads the sockets until ctx ends, and then writes what it has.
func (h *Hub) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = h.wake.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var due struct{ flush, tell, save time.Time }
	buf, ready := make([]byte, 64<<10), make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		sockets, err := h.wake.wait(time.Now().Add(flushEvery), ready)
		if err != nil {
			return fmt.Errorf("wait for logged packets: %w", err)
		}
		for _, s := range sockets {
			read := h.drain(s.Fd, buf)
			for i := range read.events {
				h.name(&read.events[i])
			}
			h.publish(read)
		}
		now := time.Now()
		if now.After(due.flush) {
			h.flush(h.Log)
			due.flush = now.Add(flushEvery)
		}
		if now.After(due.tell) {
			h.tellHidden()
			due.tell = now.Add(tellEvery)
		}
		if now.After(due.save) {
			h.save(h.Log)
			due.save = now.Add(saveEvery)
		}
	}
	h.flush(h.Log)
	h.save(h.Log)
	return nil
}

// drain reads what a socket has, up to some, as events without names.
func (h *Hub) drain(fd int32, buf []byte) (all haul) {
	h.sockets.Lock()
	defer h.sockets.Unlock()
	ns := h.byFD[fd]
	if ns == nil {
		return all // closed meanwhile
	}
	for range atOnce {
		n, err := receive(ns.fd, buf)
		if err != nil {
			return all // nothing more; an error of the socket itself ends nothing
		}
		messages, err := parse(buf[:n])
		if err != nil {
			all.malformed++
		}
		for i := range messages {
			ns.read(&messages[i], &all)
		}
		if ns.flood.excess > unbearable {
			h.giveUp(ns)
			return all
		}
	}
	return all
}

// read counts what was lost before m, and adds m unless nobody is attached whose
// it may be.
func (ns *namespace) read(m *message, to *haul) {
	if ns.begun {
		to.lost += uint64(m.sequence - ns.next)
	}
	ns.next, ns.begun = m.sequence+1, true
	prefix, id, _ := strings.Cut(m.prefix, "/")
	t, now := ns.targets[prefix+"/"], time.Now().UTC()
	switch {
	case !ns.flood.bears(now, ns.targets):
		to.lost++
	case t != nil:
		t.stirred = true
		to.events = append(to.events, t.event(m, id, now))
	}
}

// name fills in whose the ends are. The pod's own is known, whatever address it
// says it has; where it only listens with others, it is not the end.
func (h *Hub) name(e *api.Event) {
	own := &e.From
	if e.Direction == ruleset.Ingress {
		own = &e.To
	}
	for _, end := range []*api.End{&e.From, &e.To} {
		if h.Name == nil || !end.Address.IsValid() {
			continue
		}
		named := h.Name(end.Address)
		named.Address, named.Port = end.Address, end.Port
		*end = named
	}
	if own.Address.IsMulticast() {
		return
	}
	if own.Namespace != e.Namespace || own.Pod != e.Pod {
		own.Service, own.Node, own.Labels, own.NamespaceLabels = "", "", nil, nil
	}
	own.Namespace, own.Pod = e.Namespace, e.Pod
}
