package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// kernel tries what podwall uses.
func (n Node) kernel(context.Context) []Result {
	const check = "kernel"
	text, err := n.file("/proc/sys/kernel/osrelease")
	release := strings.TrimSpace(text)
	if err != nil {
		release = "of unknown version"
	}
	if !n.Privileged {
		return result(check, Unknown, "Linux "+release+", not tried: that takes root", "run policyctl doctor as root")
	}
	lacks, err := n.Probe()
	if err != nil {
		return result(check, Failed, fmt.Sprintf("Linux %s can't do what podwall needs, or does not let it: %v", release, err),
			"load the modules nf_tables and nf_conntrack (nft_ct, nft_counter, nft_reject_inet on older kernels); in a container, give it NET_ADMIN and SYS_ADMIN")
	}
	all := fine(check, "Linux %s has nftables and connection tracking", release)
	if lacks.Guard != "" {
		all = append(all, Result{Check: "kernel: raw sockets", Verdict: Warning,
			Found:  "no hook at the egress of devices: pods with CAP_NET_RAW can send past their rules, from any address: " + lacks.Guard,
			Advice: "run Linux 5.16 or newer, or drop NET_RAW from pods (Pod Security Standard restricted)"})
	}
	if lacks.Owner != "" {
		all = append(all, Result{Check: "kernel: ownership", Verdict: Warning,
			Found:  "no tables that one process owns: what pods with CAP_NET_ADMIN do to their rules is repaired, not prevented: " + lacks.Owner,
			Advice: "run Linux 6.9 or newer, or don't give pods NET_ADMIN"})
	}
	return all
}

// connections looks how full the table of tracked connections is.
func (n Node) connections(context.Context) []Result {
	const check = "conntrack"
	const dir = "/proc/sys/net/netfilter/nf_conntrack_"
	most, err := n.number(dir + "max")
	if err != nil {
		return unknown(check, err, "load the module nf_conntrack; podwall needs it")
	}
	count, err := n.number(dir + "count")
	if err != nil {
		return unknown(check, err, "load the module nf_conntrack; podwall needs it")
	}
	if most == 0 {
		return fine(check, "%d connections, and no limit", count)
	}
	percent := 100 * count / most
	found := fmt.Sprintf("%d of %d connections on the node, %d %%; the limit holds for each pod's namespace too", count, most, percent)
	const advice = "raise net.netfilter.nf_conntrack_max: when the table is full, new connections are dropped"
	switch {
	case percent >= 95:
		return result(check, Failed, found, advice)
	case percent >= 75:
		return result(check, Warning, found, advice)
	}
	return fine(check, "%s", found)
}

// A setting is a sysctl that matters, with what it should be.
type setting struct {
	path   string
	good   func(int) bool
	worse  Verdict
	means  string // if it is not good
	advice string
}

var sysctls = []setting{
	{"net/ipv4/ip_forward", func(v int) bool { return v == 1 }, Warning,
		"the node forwards no IPv4: pods that have such addresses reach nothing beyond it", "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d"},
	{"net/ipv4/conf/all/rp_filter", func(v int) bool { return v != 1 }, Warning,
		"strict reverse path filter: where a pod has several ways out, the node drops packets that podwall let pass, and counts them nowhere",
		"sysctl -w net.ipv4.conf.all.rp_filter=2 (loose) if pods have several interfaces"},
	{"fs/inotify/max_user_instances", func(v int) bool { return v >= 128 }, Warning,
		"few inotify instances: changes of manifests may be seen only when files are looked at again", "sysctl -w fs.inotify.max_user_instances=512"},
	{"user/max_net_namespaces", func(v int) bool { return v >= 1000 }, Warning,
		"few network namespaces: pods may not start", "sysctl -w user.max_net_namespaces=65536"},
}

// settings looks at sysctls.
func (n Node) settings(context.Context) []Result {
	var all []Result
	looked := 0
	for _, s := range sysctls {
		name := strings.ReplaceAll(s.path, "/", ".")
		v, err := n.number("/proc/sys/" + s.path)
		if err != nil {
			continue // a kernel without it does not have its problem
		}
		looked++
		if !s.good(v) {
			all = append(all, Result{Check: "sysctl", Verdict: s.worse, Found: fmt.Sprintf("%s is %d: %s", name, v, s.means), Advice: s.advice})
		}
	}
	if len(all) == 0 {
		if looked == 1 {
			return fine("sysctl", "1 setting that matters is as it should be")
		}
		return fine("sysctl", "%d settings that matter are as they should be", looked)
	}
	return all
}

// number is the content of a file with one number.
func (n Node) number(path string) (int, error) {
	text, err := n.file(path)
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}

// clock looks whether the clock is kept right: times in events and metrics are
// compared between nodes.
func (n Node) clock(context.Context) []Result {
	ok, err := n.Synchronised()
	switch {
	case err != nil:
		return unknown("clock", err, "see timedatectl")
	case !ok:
		return result("clock", Warning, "nothing keeps it right: "+n.Now().UTC().Format("2006-01-02 15:04:05 MST"),
			"run an NTP client, such as chrony or systemd-timesyncd: times in events and logs can't be compared between nodes")
	}
	return fine("clock", "kept right: %s", n.Now().UTC().Format("2006-01-02 15:04:05 MST"))
}
