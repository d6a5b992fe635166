package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Version is the version of the form in which Evidence is sent and kept.
const Version = 1

// Evidence is the answer to api.VerbEvidence.
type Evidence struct {
	Version       int          `json:"version"`
	Node          string       `json:"node"`
	NodeAddresses []netip.Addr `json:"nodeAddresses,omitempty"`
	// NodeEgressByPolicy says that pods don't always reach their own node, Audits
	// that an annotation may suspend policies.
	NodeEgressByPolicy bool            `json:"nodeEgressByPolicy,omitempty"`
	Audits             bool            `json:"audits,omitempty"`
	Pods               []Pod           `json:"pods"` // that are attached on this node
	Flows              api.FlowList    `json:"flows"`
	World              policy.Snapshot `json:"world"` // as much of it as concerns pods and flows
}

// A Pod is one that the node observes.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Accepts   bool   `json:"accepts"` // its accepted flows are observed now, too
}

// A Site is a node, as far as Gather has to know it.
type Site struct {
	Node               string
	NodeAddresses      []netip.Addr
	NodeEgressByPolicy bool
	Audits             bool
	Pods               []Pod
}

// Gather returns the evidence of a node: flows, and what of w concerns them and
// the node's pods, also the policies wanted. Labels of pods that w knows are left
// out of the flows.
func Gather(w *policy.World, at Site, flows api.FlowList, wanted []ruleset.Ref) Evidence {
	e := Evidence{Version: Version, Node: at.Node, NodeAddresses: at.NodeAddresses, NodeEgressByPolicy: at.NodeEgressByPolicy,
		Audits: at.Audits, Pods: append([]Pod{}, at.Pods...), Flows: flows}
	part := policy.Part{Node: at.NodeAddresses, Policies: wanted, Kin: Make}
	for _, p := range at.Pods {
		if known, ok := w.Pod(p.Namespace, p.Name); ok {
			part.Pods = append(part.Pods, known)
		}
	}
	e.Flows.Flows = slices.Clone(flows.Flows)
	gone := map[policy.Name]bool{}
	for i := range e.Flows.Flows {
		f := &e.Flows.Flows[i]
		part.Far = append(part.Far, netip.AddrPortFrom(f.From.Address, 0), netip.AddrPortFrom(f.To.Address, f.To.Port))
		for _, end := range []*api.End{&f.From, &f.To} {
			name := policy.Name{Namespace: end.Namespace, Name: end.Pod}
			known, ok := w.Pod(end.Namespace, end.Pod)
			switch {
			case ok && !known.Done:
				end.Labels, end.NamespaceLabels = nil, nil
				for _, a := range known.Addresses { // it may have another one than it had
					part.Far = append(part.Far, netip.AddrPortFrom(a, 0))
				}
			case end.Pod != "" && !gone[name]:
				gone[name] = true
				part.Pods = append(part.Pods, ghost(end))
			}
		}
	}
	e.World = w.Part(part)
	return e
}

// ghost is a pod as it was seen.
func ghost(e *api.End) policy.Pod {
	return policy.Pod{Namespace: e.Namespace, Name: e.Pod, Labels: e.Labels}
}

// Parse reads Evidence that was kept in a file.
func Parse(data []byte) (Evidence, error) {
	var e Evidence
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&e); err != nil {
		return Evidence{}, fmt.Errorf("read flows: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Evidence{}, fmt.Errorf("read flows: more than one object")
	}
	if e.Version != Version {
		return Evidence{}, fmt.Errorf("read flows: version %d, want %d, as `policyctl get flows -o json` of this release writes it", e.Version, Version)
	}
	return e, nil
}

// Since forgets the flows that were not seen at t or later.
func (e *Evidence) Since(t time.Time) {
	e.Flows.Flows = slices.DeleteFunc(e.Flows.Flows, func(f api.Flow) bool { return f.Last.Before(t) })
}

// Passed reports whether the flow got through.
func Passed(f *api.Flow) bool { return f.Verdict != ruleset.Dropped }

// ByPolicy reports whether policies decided about the flow: a packet can also be
// dropped because it belongs to no connection, or because it is forged.
func ByPolicy(f *api.Flow) bool {
	switch f.Reason.Cause {
	case ruleset.CauseRule, ruleset.CauseIsolation, ruleset.CauseAccept:
		return true
	}
	return false
}

// Local is the end whose rules gave the verdict.
func Local(f *api.Flow) *api.End {
	if f.Direction == ruleset.Ingress {
		return &f.To
	}
	return &f.From
}

// Far is the end that Local is not.
func Far(f *api.Flow) *api.End {
	if f.Direction == ruleset.Ingress {
		return &f.From
	}
	return &f.To
}
