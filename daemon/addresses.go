package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchAddresses lets the Keeper look at the node's addresses whenever the kernel
// says that one came or went, until ctx ends. A notice that is lost costs the
// time until the next sweep.
func (d *daemon) watchAddresses(ctx context.Context) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	if err != nil {
		return fmt.Errorf("watch the node's addresses: %w", err)
	}
	defer c.Close()
	// Reads end with ctx. A deadline, not Close, which would not wait for them.
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
			d.log.Error("the node's addresses", "error", err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
