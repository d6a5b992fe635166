package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/install/chain"
	"github.com/podwall/podwall/install/confdir"
)

// about finds what the plugin says about itself: its version.
var about = regexp.MustCompile(`CNI plugin podwall (\S+):`)

// plugin looks for the plugin's binary, and asks it for its version.
func (n Node) plugin(ctx context.Context) []Result {
	const check = "plugin"
	path := filepath.Join(n.CNIBin, chain.Plugin)
	fi, err := os.Stat(n.at(path))
	const install = "run podwall-install install, or copy the binary there"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return result(check, Failed, path+" does not exist: no pod whose network has podwall in its chain can start or be removed", install)
	case err != nil:
		return unknown(check, err, "run policyctl doctor as root")
	case !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0:
		return result(check, Failed, path+" is not an executable file", install)
	}
	said, err := n.Run(ctx, n.at(path))
	m := about.FindStringSubmatch(said)
	switch {
	case m == nil && err != nil:
		return result(check, Failed, fmt.Sprintf("%s does not run: %v", path, err), "install the binary of this machine's architecture")
	case m == nil:
		return result(check, Failed, path+" is not podwall's plugin", install)
	case m[1] != n.Version:
		return result(check, Warning, fmt.Sprintf("%s is %s, policyctl %s", path, m[1], n.Version), "install all of podwall's binaries from one release")
	}
	return fine(check, "%s, %s", path, m[1])
}

// A runtime is one whose configuration may say where networks are.
type runtime struct {
	name, file string
	setting    *regexp.Regexp
}

var runtimes = []runtime{
	{"k3s", "/var/lib/rancher/k3s/agent/etc/containerd/config.toml", regexp.MustCompile(`(?m)^\s*conf_dir\s*=\s*"([^"]+)"`)},
	{"containerd", "/etc/containerd/config.toml", regexp.MustCompile(`(?m)^\s*conf_dir\s*=\s*"([^"]+)"`)},
	{"CRI-O", "/etc/crio/crio.conf", regexp.MustCompile(`(?m)^\s*network_dir\s*=\s*"([^"]+)"`)},
}

const usualConf = "/etc/cni/net.d"

// networks is the directory that the runtime reads, and who says so.
func (n Node) networks() (dir, who string) {
	if n.CNIConf != "" {
		return n.CNIConf, "as --cni-conf-dir says"
	}
	for _, r := range runtimes {
		text, err := n.file(r.file)
		if m := r.setting.FindStringSubmatch(text); err == nil && m != nil {
			return m[1], "as " + r.name + " is configured"
		}
	}
	return usualConf, "where runtimes look by default"
}

// Networks are the files of the runtime's networks, by their names.
func (n Node) Networks() map[string]string {
	dir, _ := n.networks()
	files, err := os.ReadDir(n.at(dir))
	if err != nil {
		return nil // the check chain has said so
	}
	all := map[string]string{}
	for _, f := range files {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(f.Name())) {
			all[f.Name()] = filepath.Join(dir, f.Name())
		}
	}
	return all
}

// chain looks at the network that a runtime gives to pods.
func (n Node) chain(context.Context) []Result {
	const check = "chain"
	dir, who := n.networks()
	files, err := confdir.Dir{Path: n.at(dir), Entry: []byte(`{"type": "podwall"}`)}.Look()
	if err != nil {
		return unknown(check, err, "run policyctl doctor as root")
	}
	i := slices.IndexFunc(files, func(f confdir.File) bool { return f.Selected })
	if i < 0 {
		return result(check, Failed, fmt.Sprintf("%s, %s, has no network that a runtime could give a pod", dir, who),
			"install the cluster's network plugin, then run podwall-install install; if the runtime reads another directory, name it with --cni-conf-dir")
	}
	f := files[i]
	found := fmt.Sprintf("%s: network %s, %s", n.shown(f.Path), f.Network, strings.Join(f.Plugins, " → "))
	switch {
	case unguarded(f):
		return result(check, Failed, join(found+": podwall is not its last plugin, so new pods get no rules", f.Problem),
			"run podwall-install install, and leave it running: network plugins write their file again")
	case f.Problem != "":
		return result(check, Warning, found+": "+f.Problem, "see podwall-install status")
	}
	var others []Result
	for _, other := range files {
		if unguarded(other) && !other.Selected {
			others = append(others, Result{Check: check, Verdict: Warning,
				Found:  join(n.shown(other.Path)+": podwall is not chained in network "+other.Network, other.Problem),
				Advice: "run podwall-install install; pods on that network, which something must ask for, get no rules there"})
		}
	}
	return append(fine(check, "%s", found), others...)
}

// unguarded reports whether pods on a network get no rules. An entry with other
// fields than the installer's is somebody's decision.
func unguarded(f confdir.File) bool {
	return f.State == confdir.Unprotected && (len(f.Plugins) == 0 || f.Plugins[len(f.Plugins)-1] != chain.Plugin)
}

func join(text, more string) string {
	if more == "" {
		return text
	}
	return text + "; " + more
}

// A cached is as much as matters of an entry of libcni's cache: which plugins an
// attachment was really made with.
type cached struct {
	Config  []byte `json:"config"`
	Network string `json:"networkName"`
	Netns   string `json:"netns"`
	at      time.Time
}

// lastPod looks what the runtime did, whatever the files say.
func (n Node) lastPod(context.Context) []Result {
	const check = "last pod"
	entries, err := n.cache()
	switch {
	case err != nil:
		return unknown(check, err, "run policyctl doctor as root; --cni-cache-dir names libcni's cache")
	case len(entries) == 0:
		return fine(check, "libcni's cache, %s, knows of none", n.CNICache)
	}
	last := entries[len(entries)-1]
	without := slices.DeleteFunc(slices.Clone(entries), func(c cached) bool { return c.has() })
	when := last.at.UTC().Format("2006-01-02 15:04:05 MST")
	if !last.has() {
		return result(check, Failed, fmt.Sprintf("the runtime added it at %s on network %s without podwall, whatever the network's file says now", when, last.Network),
			"if the file was changed since, add a pod and look again; else the runtime reads another directory (--cni-conf-dir), or has to be restarted")
	}
	found := fmt.Sprintf("added at %s on network %s, with podwall", when, last.Network)
	if len(without) > 0 {
		found += fmt.Sprintf("; %d earlier ones without, which podwalld adopts", len(without))
	}
	return fine(check, "%s", found)
}

// cache is the entries of attachments that exist, the latest last. Loopback has no
// business here.
func (n Node) cache() ([]cached, error) {
	dir := n.at(filepath.Join(n.CNICache, "results"))
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []cached
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		fi, statErr := f.Info()
		var c cached
		if err != nil || statErr != nil || json.Unmarshal(b, &c) != nil {
			continue // gone since, or no entry
		}
		if _, err := os.Lstat(n.at(c.Netns)); c.Netns == "" || err != nil || c.loopback() {
			continue
		}
		c.at = fi.ModTime()
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b cached) int { return a.at.Compare(b.at) })
	return all, nil
}

func (c cached) has() bool { return strings.Contains(string(c.Config), `"`+chain.Plugin+`"`) }

func (c cached) loopback() bool {
	l, err := chain.Parse(c.Config)
	return err == nil && !slices.ContainsFunc(l.Types, func(t string) bool { return t != "loopback" })
}
