package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	cni "github.com/containernetworking/cni/pkg/version"
	"github.com/spf13/cobra"

	"github.com/podwall/podwall/install/apiserver"
)

// A cluster is what Kubernetes knows of this node and of this installer. Without a
// node's name there is none.
type cluster struct {
	node      string // the node's name
	daemonSet string // namespace/name
	taint     string // the key of the taint that keeps pods away
	account   string // the directory of the service account
	settle    time.Duration

	unwanted atomic.Bool // the last that was heard of the DaemonSet

	runtime string    // of the node, once it is known
	asked   time.Time // when it was asked for
	refused error     // why it is not known
}

// nodeFlag is for commands that have to know the node's runtime.
func (n *node) nodeFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.cluster.node, "node-name", n.getenv("NODE_NAME"), "`NAME` of this node in Kubernetes, whose runtime --cni-version is compared with (default $NODE_NAME)")
	cmd.Flags().StringVar(&n.cluster.account, "service-account", apiserver.Account, "`DIR` of the service account to ask Kubernetes with")
}

// clusterFlags are for the command that a DaemonSet runs.
func (n *node) clusterFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.cluster.daemonSet, "daemonset", "", "`NAMESPACE/NAME` of the DaemonSet that this belongs to; when it is stopped because that was deleted, podwall is removed")
	cmd.Flags().DurationVar(&n.cluster.settle, "settle", 5*time.Second, "between taking the plugin out of the networks and looking who needs it, then: pods that are being started do")
	cmd.Flags().StringVar(&n.cluster.taint, "taint", "", "`KEY` of the node's taint to take away when podwall protects new pods, and to set when it can't")
}

// checkCluster looks at the flags.
func (n *node) checkCluster() error {
	c := &n.cluster
	if (c.daemonSet != "" || c.taint != "") && c.node == "" {
		return errors.New("--node-name: missing; --daemonset and --taint need it")
	}
	if namespace, name, ok := strings.Cut(c.daemonSet, "/"); c.daemonSet != "" && (!ok || namespace == "" || name == "") {
		return fmt.Errorf("--daemonset %q: want NAMESPACE/NAME", c.daemonSet)
	}
	return nil
}

// api is the cluster's API server, as Kubernetes tells every pod.
func (n *node) api() *apiserver.Client {
	return &apiserver.Client{
		Address: net.JoinHostPort(n.getenv("KUBERNETES_SERVICE_HOST"), cmp.Or(n.getenv("KUBERNETES_SERVICE_PORT"), "443")),
		Account: n.cluster.account,
	}
}

// speakers are the container runtimes of which it is known from which version on
// their libcni speaks a version of CNI. The newest of each comes first.
var speakers = []struct {
	runtime      string
	major, minor int
	cni          string
	dropIns      bool // it reads a network's drop-in directory
}{
	{"containerd", 2, 1, "1.1.0", true},
	{"containerd", 2, 0, "1.1.0", false},
	{"containerd", 1, 6, "1.0.0", false},
	{"containerd", 1, 0, "0.4.0", false},
	{"cri-o", 1, 34, "1.1.0", true},
}

// runtimePattern is how a node names its runtime: containerd://2.3.7-k3s1.
var runtimePattern = regexp.MustCompile(`^([a-z-]+)://v?(\d+)\.(\d+)`)

// ability is what is known of a runtime.
func ability(runtime string) (version string, dropIns bool, err error) {
	m := runtimePattern.FindStringSubmatch(runtime)
	if m == nil {
		return "", false, fmt.Errorf("runtime %q: not known here", runtime)
	}
	major, _ := strconv.Atoi(m[2]) // too many digits make a version that is higher than any
	minor, _ := strconv.Atoi(m[3])
	for _, s := range speakers {
		if s.runtime == m[1] && (major > s.major || (major == s.major && minor >= s.minor)) {
			return s.cni, s.dropIns, nil
		}
	}
	return "", false, fmt.Errorf("runtime %s: it is not known what it speaks", runtime)
}

// speaks returns an error unless a runtime speaks a version of CNI.
func speaks(runtime, version string) error {
	most, _, err := ability(runtime)
	if err != nil {
		return err
	}
	if higher, err := cni.GreaterThan(version, most); err != nil || higher {
		return fmt.Errorf("runtime %s speaks CNI up to %s", runtime, most)
	}
	return nil
}

// runtimeSpeaks returns an error unless this node's runtime speaks a version of
// CNI. Outside Kubernetes whoever gives the flag has to know.
func (n *node) runtimeSpeaks(ctx context.Context, version string) error {
	if n.cluster.node == "" {
		return nil
	}
	runtime, err := n.nodeRuntime(ctx)
	if err != nil {
		return err
	}
	return speaks(runtime, version)
}

// checkDropIn returns an error if it is not known that this node's runtime reads
// drop-in directories: its pods would have no firewall, and nobody would notice.
func (n *node) checkDropIn(ctx context.Context) error {
	if !n.dir.DropIn || n.cluster.node == "" {
		return nil
	}
	runtime, err := n.nodeRuntime(ctx)
	if err != nil {
		return fmt.Errorf("--drop-in: ask what runtime this node has: %w", err)
	}
	if _, reads, err := ability(runtime); err != nil || !reads {
		return fmt.Errorf("--drop-in: runtime %s: it is not known to read drop-in directories", runtime)
	}
	return nil
}

// nodeRuntime is the runtime of this node, which is asked for once.
func (n *node) nodeRuntime(ctx context.Context) (string, error) {
	c := &n.cluster
	if c.runtime == "" && time.Since(c.asked) > askRuntime {
		c.asked = time.Now()
		var node apiserver.Node
		node, c.refused = n.api().Node(ctx, c.node)
		c.runtime = node.Runtime
	}
	return c.runtime, c.refused
}

// listen hears what becomes of the DaemonSet, until ctx ends.
func (n *node) listen(ctx context.Context, log *slog.Logger) error {
	namespace, name, _ := strings.Cut(n.cluster.daemonSet, "/")
	said := ""
	for ctx.Err() == nil {
		err := n.api().WatchDaemonSet(ctx, namespace, name, func(d apiserver.DaemonSet) {
			n.cluster.unwanted.Store(d.Gone)
			said = ""
		})
		if err != nil && ctx.Err() == nil && err.Error() != said && !n.cluster.unwanted.Load() {
			said = err.Error()
			log.Error("should the DaemonSet be deleted now, podwall will not notice", "error", err)
		}
		pause(ctx, askApart)
	}
	return nil
}

const (
	askApart   = time.Second      // between two questions of one kind
	askRuntime = 30 * time.Second // between two for the runtime
	leaveTime  = 3 * time.Second  // for all that is asked when leaving
)

// wanted reports whether podwall should stay on this node although its installer
// is stopped: for a newer one, or for the next start of the node. It stays unless
// it is known that it should not.
func (n *node) wanted(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	namespace, name, _ := strings.Cut(n.cluster.daemonSet, "/")
	for said := error(nil); ; {
		d, err := n.api().DaemonSet(ctx, namespace, name)
		switch {
		case err == nil && d.Gone:
			return false, nil
		case err == nil:
			return n.selected(ctx, d)
		case n.cluster.unwanted.Load(): // what permitted to ask was deleted too
			return false, nil
		case ctx.Err() != nil:
			return true, cmp.Or(said, err)
		}
		said = err
		pause(ctx, askApart)
	}
}

// selected reports whether a DaemonSet is for this node.
func (n *node) selected(ctx context.Context, d apiserver.DaemonSet) (bool, error) {
	node, err := n.api().Node(ctx, n.cluster.node)
	if err != nil {
		return !errors.Is(err, apiserver.ErrNotFound), err
	}
	labels := maps.Clone(node.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, d.NodeSelector)
	return maps.Equal(labels, node.Labels), nil
}

// leave removes podwall from a node that is not to have it any more.
func (n *node) leave(ctx context.Context, log *slog.Logger) error {
	switch wanted, err := n.wanted(ctx); {
	case wanted && err != nil:
		log.Error("everything stays in place: it is not known whether podwall is wanted", "error", err)
		return nil
	case wanted:
		log.Info("podwall-install stops; everything stays in place")
		return nil
	}
	log.Info("podwall is no longer wanted on this node and is removed", "daemonset", n.cluster.daemonSet)
	if err := n.unchain(ctx); err != nil {
		return err
	}
	pause(ctx, n.cluster.settle)
	err := n.remove(ctx, 0)
	var f *failure
	if errors.As(err, &f) && f.status == exitNeeded {
		return nil // which remove said
	}
	return err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C: // as long as it was to be
	}
}
