// Command podwall is the CNI plugin: it gives a pod its firewall before the pod
// starts.
//
// It stands in a network's list of plugins after the one that makes the pod's
// interface. It knows no policy. For an ADD it asks podwalld which rules the pod
// has, puts them into the pod's network namespace, and returns when the daemon
// has confirmed:
//
//	runtime          podwall                         podwalld      kernel
//	  ADD ──────────▶ read stdin, CNI_ARGS, CNI_NETNS
//	                  attachment, namespace fd ──────▶
//	                  ◀────────────────────── rule set
//	                  one transaction ───────────────────────────────▶
//	                  applied ───────────────────────▶ (durable)
//	                  ◀────────────────────────── done
//	  ◀── prevResult, unchanged
//
// # Contract
//
// When ADD returns without error, the pod's rules are in the kernel. The one
// exception is failurePolicy open, and there only that podwalld can't be reached
// or says that it can't serve: then the pod starts without rules and a line on
// stderr says so. Rules that were sent and can't be installed, a namespace that
// is none, a configuration that can't be read: all of these fail ADD under either
// policy.
//
// DEL succeeds, always, and prints nothing on stdout. The rules stay: they go
// with the namespace, and until it is gone the pod must not be unprotected.
//
// Every call ends within ten seconds, before the runtimes' own time is up.
// A plugin that is killed between any two steps leaves nothing that the next
// ADD or DEL of the same attachment does not put right.
//
// It lives for milliseconds: Go's runtime neither reads which share of the
// processors its control group has, nor collects garbage before heap is full.
//
//go:debug containermaxprocs=0
package main

import (
	"os"
	"runtime/debug"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	cni "github.com/containernetworking/cni/pkg/version"

	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/version"
)

// versions are those of the CNI specification that the plugin speaks.
var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// heap is how much memory the plugin takes before it tidies up. Few pods have
// peers enough to get there, and none waits for it twice.
const heap = 8 << 20

func main() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heap)
	p := &plugin{
		apply:     nft.Apply,
		stdout:    os.Stdout,
		stderr:    os.Stderr,
		patience:  20 * time.Second,
		handover:  10 * time.Second,
		delPeriod: 2 * time.Second,
	}
	os.Exit(p.run())
}

// run answers the command in the environment and returns the exit status.
func (p *plugin) run() int {
	// skel refuses what it can't read before it calls a DEL, and a DEL must not
	// fail. So DEL is answered here.
	if os.Getenv("CNI_COMMAND") == "DEL" {
		p.del(delArgs(os.Getenv, os.Stdin, p.stderr))
		return 0
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    p.add,
		Check:  p.check,
		GC:     p.gc,
		Status: p.status,
	}, cni.PluginSupports(versions...), about())
	if err == nil {
		return 0
	}
	_ = err.Print() // stdout is gone; the exit status still tells
	return 1
}

func about() string {
	return "CNI plugin podwall " + version.Version + ": a firewall for every pod, in the pod's own network namespace"
}
