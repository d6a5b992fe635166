package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
)

// nodeName returns the configured name or, as the kubelet does, the host's in
// lower case.
func nodeName(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("nodeName: ask for the host's name: %w", err)
	}
	return strings.ToLower(strings.TrimSpace(host)), nil
}

// nodeAddresses returns the addresses of this node's own interfaces, from which
// its processes may reach a pod. Loopback addresses never come from outside a
// pod, and link-local ones of IPv6 are each pod's own neighbour's.
func nodeAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ip = ip.Unmap()
		if !ok || ip.IsLoopback() || (ip.Is6() && ip.IsLinkLocalUnicast()) {
			continue
		}
		addrs = append(addrs, ip)
	}
	return addrs, nil
}

// kernel returns this machine's kernel, less what it turns out not to have, which
// is a problem of the node.
func (d *daemon) kernel() reconcile.Kernel {
	k := reconcile.RealKernel
	lacks, err := d.probe()
	k.NoGuard, k.NoOwner = lacks.Guard != "", lacks.Owner != ""
	k.NoLog = lacks.Log != ""
	for _, p := range []struct{ what, cause string }{
		{"no hook at the egress of devices (Linux 5.16): pods with CAP_NET_RAW can send past their rules, from any address", lacks.Guard},
		{"no tables that one process owns (Linux 6.9): what pods with CAP_NET_ADMIN do to their rules is repaired, not prevented", lacks.Owner},
		{"packets can't be handed to a process (NFLOG): there are no events, and no audits", lacks.Log},
		{"not known what it can do; taken to have all that podwall needs", text(err)},
	} {
		if p.cause != "" {
			d.lacking = append(d.lacking, api.Problem{Object: "kernel " + release(), Message: p.what + ": " + p.cause})
			d.log.Warn("kernel", "problem", p.what, "cause", p.cause)
		}
	}
	return k
}

// text is err's, empty if there is none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// release is the version of the running kernel, as uname -r says it.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// notify tells systemd how the service is, if systemd asked for it
// (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		log.Warn("systemd not notified", "state", state, "error", err)
	}
}
