package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/source/kube"
	"github.com/podwall/podwall/daemon/source/manifest"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
)

// tellEvery is how often it is looked for what people should hear of through the
// API server.
const tellEvery = 10 * time.Second

// chooseSource returns the one source that the configuration names or, if it names
// none, the cluster whose pod this process is.
func (d *daemon) chooseSource() (source.Source, error) {
	switch {
	case d.cfg.PolicyDir != "":
		return &manifest.Source{Dir: d.cfg.PolicyDir}, nil
	case d.cfg.Kubeconfig == "" && !kube.InCluster():
		return nil, errors.New("policyDir and kubeconfig are empty, and this is no pod with a service account: " +
			"name a source of policy with --policy-dir or --kubeconfig")
	}
	// After this many seconds without a word the Kubernetes client asks whether the
	// connection lives, and for how long it waits for an answer. By itself it takes
	// 45 seconds to find out.
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if err := os.Setenv(name, seconds); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	d.cluster = &kube.Source{Kubeconfig: d.cfg.Kubeconfig, Log: d.log}
	return d.cluster, nil
}

// equip gives the source what an earlier run left.
func (d *daemon) equip() {
	if m, ok := d.source.(*manifest.Source); ok {
		m.Files = shelf{d.store}
	}
	if d.cluster != nil {
		d.cluster.Node = d.node
		d.cluster.Files = d.store
	}
}

// A shelf is the part of the store's files that a source of manifests sees: of an
// API server's it could not make sense.
type shelf struct{ *store.Store }

// Files returns the contents that the source stored.
func (s shelf) Files() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := s.EachFile("", func(name string, content []byte) error {
		if !strings.HasPrefix(name, kube.Prefix) {
			all[name] = content
		}
		return nil
	})
	return all, err
}

// learn returns what an ADD asks to learn a pod; nil with manifests.
func (d *daemon) learn() func(context.Context, api.Attachment) error {
	if d.cluster == nil {
		return nil
	}
	return func(ctx context.Context, a api.Attachment) error {
		if a.Name == "" {
			return nil // nobody said whose it is: no pod of Kubernetes
		}
		return d.cluster.Learn(ctx, a.Namespace, a.Name, a.UID)
	}
}

// freshness adds to s how fresh an API server's news are.
func (d *daemon) freshness(s *api.SourceStatus) {
	if d.cluster != nil {
		st := d.cluster.Status()
		s.HeardAt, s.Lag, s.KnownAt = st.Heard, st.Lag, st.Known
	}
}

// tell makes Events of what people should hear of until ctx ends.
func (d *daemon) tell(ctx context.Context) error {
	if d.cluster == nil {
		return nil
	}
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	said := ""
	var before map[kube.Notice]bool
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C: // somebody may wonder by now
		}
		var lasting []kube.Notice
		now := map[kube.Notice]bool{}
		for _, n := range d.notices() {
			now[n] = true
			if before[n] { // what passes by itself is no news
				lasting = append(lasting, n)
			}
		}
		before = now
		if err := d.cluster.Announce(ctx, lasting); text(err) != said && ctx.Err() == nil {
			if said = text(err); err != nil {
				d.log.Warn("events", "error", err)
			}
		}
	}
}

// notices returns what is not as it should be with pods and policies of this node.
func (d *daemon) notices() []kube.Notice {
	var list []kube.Notice
	counts, all := d.keeper.Counts(), 0
	for _, n := range counts {
		all += n
	}
	if all > counts[api.StateEnforced] {
		for _, p := range d.keeper.Pods() {
			if p.Status.State != api.StateEnforced && p.Name != "" {
				list = append(list, kube.Notice{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID,
					Reason: "Firewall" + string(p.Status.State), Note: "podwall: interface " + p.Interface + ": " + p.Status.Message})
			}
		}
	}
	if d.cluster.Dishonoured() {
		for _, p := range d.keeper.Policies() {
			if p.Problem != "" && len(p.Pods) > 0 { // nodes with none of its pods leave it to the others
				list = append(list, kube.Notice{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name,
					Reason: "NotHonoured", Note: "podwall: it isolates what it selects and admits nobody: " + p.Problem})
			}
		}
	}
	return list
}
