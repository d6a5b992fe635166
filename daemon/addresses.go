package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dialAddresses returns a socket that hears of this node's addresses.
func dialAddresses() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return nil, fmt.Errorf("watch the node's addresses: %w", err)
	}
	return c, nil
}

// watchAddresses lets the Keeper look at the node's addresses whenever c says
// that one came or went, until ctx ends. A notice that is lost costs the time
// until the next sweep.
func (d *daemon) watchAddresses(ctx context.Context, c *netlink.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		_, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil { // notices were lost, most likely: look, and don't spin
			d.log.Warn("watch the node's addresses", "error", err)
			pause(ctx, time.Second)
		}
		if err := d.keeper.Refresh(); err != nil {
			d.log.Error("watch the node's addresses", "error", err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
