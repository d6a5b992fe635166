package main

import (
	"fmt"
	"net"
	"time"
)

// How first sends.
const (
	firstFor   = 1500 * time.Millisecond
	firstLimit = 20 * time.Second // for the answer of the allowed target, whose node may be exchanging its podwalld: TCP asks after 1, 3, 7 and 15 s
	sweepEvery = 2 * time.Millisecond
	floodEvery = 5 * time.Millisecond
	askEvery   = 20 * time.Millisecond
)

// first sends datagrams and connections with a name in them to a target that a
// policy allows and to one that it denies, beginning at once. The servers' logs
// say what arrived. It is an error if the allowed one was refused, or silent.
func first(name, allowed, denied string) error {
	start := time.Now()
	go flood(name, "udp/"+denied)
	go flood(name, "tcp/"+denied)
	answer, err := ask("tcp/"+allowed, name, firstLimit)
	if err != nil {
		return fmt.Errorf("allowed target: %s after %v", reason(err), time.Since(start))
	}
	fmt.Printf("allowed target answered after %v: %s", time.Since(start).Round(time.Microsecond), answer)
	time.Sleep(firstFor - time.Since(start))
	return nil
}

// flood sends to a target again and again, for ever, not waiting for anything.
func flood(name, to string) {
	network, address, err := target(to)
	if err != nil {
		return
	}
	for n := 0; ; n++ {
		go func() {
			c, err := net.DialTimeout(network, address, firstFor)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "%s %d\n", name, n)
			_ = c.Close()
		}()
		time.Sleep(floodEvery)
	}
}

// sweep sends a datagram to each address again and again, for ever, whether
// somebody has it yet or not.
func sweep(name string, addresses []string) error {
	c, err := net.ListenPacket("udp", "")
	if err != nil {
		return err
	}
	var all []net.Addr
	for _, a := range addresses {
		to, err := net.ResolveUDPAddr("udp", a)
		if err != nil {
			return err
		}
		all = append(all, to)
	}
	for {
		for _, to := range all {
			_, _ = c.WriteTo([]byte(name), to) // nobody has it
		}
		time.Sleep(sweepEvery)
	}
}

// stream asks a target again and again, on one connection and on a new one each
// time, for ever. It prints a line for every answer that did not come within a
// second, and one a second that says how many did.
func stream(to string) error {
	network, address, err := target(to)
	if err != nil {
		return err
	}
	c, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return err
	}
	fmt.Println("connected")
	answers, said := 0, time.Now()
	for n := 0; ; n++ {
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := exchange(c, "still there?"); err != nil {
			return fmt.Errorf("LOST the open connection after %d answers: %s", answers, reason(err))
		}
		if _, err := ask(to, "anybody there?", time.Second); err != nil {
			fmt.Printf("LOST a new connection at %s: %s\n", time.Now().Format(time.TimeOnly), reason(err))
		}
		answers += 2
		if time.Since(said) > time.Second {
			fmt.Println("answers", answers)
			said = time.Now()
		}
		time.Sleep(askEvery)
	}
}
