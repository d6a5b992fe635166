// Command probe is what the pods of our own scenarios run.
//
//	probe serve tcp/80 udp/80         answer everybody: the host's name and who asked
//	probe dial [-t 1s] tcp/HOST:PORT  ask once and print the answer
//	probe first NAME ALLOWED DENIED   send to both from the first instruction on
//	probe flood NAME DENIED           send to it for ever
//	probe sweep NAME HOST:PORT…       send a datagram to each, over and over
//	probe hear udp/80                 serve for a second and a half
//	probe stream tcp/HOST:PORT        keep one connection, and new ones, going
//
// A target is PROTOCOL/HOST:PORT.
//
// # Contract
//
// A server prints a line for each TCP connection and each datagram that reached
// it: the protocol, the sender and, of a datagram, what it said. What is not in
// its log did not arrive. dial ends with status 0 after an answer, and otherwise
// says timeout, refused, denied (by the sender's own kernel) or what else happened and ends with status 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, reason(err))
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want serve, dial, first, flood, sweep, hear or stream")
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "dial":
		flags := flag.NewFlagSet("dial", flag.ContinueOnError)
		limit := flags.Duration("t", time.Second, "how long to wait for an answer")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		answer, err := ask(flags.Arg(0), "hello", *limit)
		fmt.Print(answer)
		return err
	case "first":
		if len(args) != 4 {
			return errors.New("first wants a name and two targets")
		}
		return first(args[1], args[2], args[3])
	case "flood":
		if len(args) != 3 {
			return errors.New("flood wants a name and a target")
		}
		go flood(args[1], "udp/"+args[2])
		flood(args[1], "tcp/"+args[2])
	case "sweep":
		if len(args) < 3 {
			return errors.New("sweep wants a name and addresses")
		}
		return sweep(args[1], args[2:])
	case "hear":
		time.AfterFunc(firstFor, func() { os.Exit(0) })
		return serve(args[1:])
	case "stream":
		if len(args) != 2 {
			return errors.New("stream wants a target")
		}
		return stream(args[1])
	}
	return fmt.Errorf("%s: no such command", args[0])
}

// reason is what a test wants to tell apart.
func reason(err error) string {
	var n net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "denied"
	case errors.As(err, &n) && n.Timeout():
		return "timeout"
	}
	return err.Error()
}

// target takes PROTOCOL/HOST:PORT apart.
func target(s string) (network, address string, err error) {
	network, address, ok := strings.Cut(s, "/")
	if !ok || (network != "tcp" && network != "udp") {
		return "", "", fmt.Errorf("target %q: want tcp/HOST:PORT or udp/HOST:PORT", s)
	}
	return network, address, nil
}

// ask sends a message to a target and returns the line that comes back.
func ask(to, message string, limit time.Duration) (string, error) {
	network, address, err := target(to)
	if err != nil {
		return "", err
	}
	c, err := net.DialTimeout(network, address, limit)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	return exchange(c, message)
}

// exchange sends a line and reads one.
func exchange(c net.Conn, message string) (string, error) {
	if _, err := io.WriteString(c, message+"\n"); err != nil {
		return "", err
	}
	b := make([]byte, 512)
	n, err := c.Read(b)
	return string(b[:n]), err
}
