package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
)

// serve answers on all of the given PROTOCOL/PORTs until one fails.
func serve(ports []string) error {
	s := &server{failed: make(chan error, len(ports))}
	var err error
	if s.name, err = os.Hostname(); err != nil {
		return err
	}
	for _, p := range ports {
		network, port, err := target(p)
		if err != nil {
			return err
		}
		if err := s.listen(network, ":"+port); err != nil {
			return err
		}
	}
	fmt.Println("serving", strings.Join(ports, " "))
	return <-s.failed
}

// A server answers on some ports.
type server struct {
	name   string
	failed chan error

	mu sync.Mutex // one line at a time
}

func (s *server) listen(network, address string) error {
	if network == "udp" {
		c, err := net.ListenPacket(network, address)
		if err == nil {
			go s.datagrams(c)
		}
		return err
	}
	l, err := net.Listen(network, address)
	if err == nil {
		go s.connections(l)
	}
	return err
}

func (s *server) datagrams(c net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			s.failed <- err
			return
		}
		s.print("udp", from, strings.TrimSpace(string(b[:n])))
		_, _ = c.WriteTo(s.answer(from), from) // whoever went away wants none
	}
}

func (s *server) connections(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			s.failed <- err
			return
		}
		s.print("tcp", c.RemoteAddr(), "")
		go s.converse(c)
	}
}

// converse answers every line until the other end has no more.
func (s *server) converse(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if _, err := c.Write(s.answer(c.RemoteAddr())); err != nil {
			return
		}
	}
}

func (s *server) answer(from net.Addr) []byte { return fmt.Appendf(nil, "%s %s\n", s.name, from) }

func (s *server) print(network string, from net.Addr, said string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Println(network, from, said)
}
