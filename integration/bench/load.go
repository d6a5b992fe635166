package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
)

// port is where the pods answer, over TCP and UDP.
const port = 20500

// A load is traffic between a client and a pod, for a slice of time.
type load struct {
	name, unit string
	run        func(route, time.Duration) (count, error)
}

// The loads. Two ends that wait for each other have a CPU each, as two pods
// mostly have; what is called work is both ends' on one thread, without any
// waiting: the harshest view of a firewall, and the steadiest.
func requests() load    { return load{"TCP request/response", "requests/s", requestLoad} }
func stream() load      { return load{"TCP stream", "bytes/s", streamLoad} }
func datagrams() load   { return load{"UDP packets", "packets/s", datagramWork} }
func connections() load { return load{"new TCP connections", "connections/s", connectionLoad} }
func requestCost() load {
	return load{"TCP request/response, its work alone", "requests/s", requestWork}
}
func connectionCost() load {
	return load{"new TCP connection, its work alone", "connections/s", connectionWork}
}

// A subject is what is measured: pods under one firewall, and who sends to them.
type subject struct {
	name   string
	client *lab.Sandbox
	pods   []*lab.Sandbox
}

// A route is one pod of a subject, and who sends to it.
type route struct {
	name        string
	client, pod *lab.Sandbox
}

// any is one of the subject's pods, by chance.
func (s subject) any() route {
	return route{s.name, s.client, s.pods[rand.IntN(len(s.pods))]}
}

// A count is what was done, by how much time of CPUs.
type count struct {
	ops float64
	cpu time.Duration
}

// rate is how much a CPU does in a second. Other than by the clock, it is what a
// busy machine changes least.
func (c count) rate() float64 { return c.ops / c.cpu.Seconds() }

// timed calls op for d, and counts.
func timed(d time.Duration, op func() (float64, error)) (c count, err error) {
	start, cpu := time.Now(), cpuTime()
	for time.Since(start) < d {
		for range 8 {
			n, err := op()
			if err != nil {
				return c, err
			}
			c.ops += n
		}
	}
	c.cpu = cpuTime() - cpu
	return c, nil
}

// cpuTime is what the calling thread has used.
func cpuTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // the clock exists
	return time.Duration(ts.Nano())
}

// An end is one of the two of a connection.
type end int

const (
	client end = iota
	server
)

// pin puts the calling thread on its end's CPU: the first, or the last.
func pin(e end) error {
	var may, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	for i, left := 0, may.Count(); left > 0; i++ {
		if may.IsSet(i) {
			left--
			if e == client || left == 0 {
				set.Set(i)
				break
			}
		}
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("set affinity: %w", err)
	}
	return nil
}

// stuck is how long an end waits for the other before it gives up.
var stuck = unix.Timeval{Sec: 2}

// listen makes a listening socket in a pod.
func listen(pod *lab.Sandbox) (fd int, err error) {
	err = pod.Do(func() error {
		if fd, err = rawSocket(); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &stuck),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port}),
			unix.Listen(fd, 128))
	})
	if err != nil {
		return -1, fmt.Errorf("listen in %s: %w", pod.Pod(), err)
	}
	return fd, nil
}

// dial opens a connection from the calling thread's namespace.
func dial(to *unix.RawSockaddrInet4) (int, error) {
	fd, err := rawSocket()
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := rawConnect(fd, to); err != nil {
		rawClose(fd)
		return -1, fmt.Errorf("connect to %s: %w", netip.AddrFrom4(to.Addr), err)
	}
	return fd, nil
}

// duet runs serve in the pod and ask in the client, on a CPU each, and adds up
// what they used. The listener is shut down when ask returns.
func duet(s route, serve func(l int) error, ask func(to *unix.RawSockaddrInet4) (count, error)) (count, error) {
	l, err := listen(s.pod)
	if err != nil {
		return count{}, err
	}
	defer rawClose(l)
	served := make(chan error, 1)
	var c, asked count
	go func() {
		served <- s.pod.Do(func() error {
			if err := pin(server); err != nil {
				return err
			}
			start := cpuTime()
			err := serve(l)
			c.cpu = cpuTime() - start
			return err
		})
	}()
	err = s.client.Do(func() error {
		if err := pin(client); err != nil {
			return err
		}
		var err error
		asked, err = ask(rawAddr(s.pod.Addr(false).As4(), port))
		return err
	})
	_ = unix.Shutdown(l, unix.SHUT_RD) // ends an accept; nothing else waits for it
	err = errors.Join(err, <-served)
	return count{ops: asked.ops, cpu: asked.cpu + c.cpu}, err
}
