package api

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/ruleset"
)

// The requests about what packets meet.
const (
	VerbMonitor Verb = "monitor" // MonitorRequest; answered by messages of VerbEvents, then VerbDone
	VerbFlows   Verb = "flows"   // FlowsRequest; answered by FlowList
	VerbTop     Verb = "top"     // nothing; answered by []Traffic
)

// VerbEvents is one of the messages that answer VerbMonitor: Events.
const VerbEvents Verb = "events"

// An Event is one packet that a pod's rules logged.
type Event struct {
	Time        time.Time         `json:"time"`
	Verdict     ruleset.Fate      `json:"verdict"`
	Direction   ruleset.Direction `json:"direction"` // of the packet's flow, as the pod sees it
	Namespace   string            `json:"namespace"`
	Pod         string            `json:"pod"`
	ContainerID string            `json:"containerID"`
	Interface   string            `json:"interface"`
	From        End               `json:"from"` // who opened the flow
	To          End               `json:"to"`
	Protocol    string            `json:"protocol"`        // TCP, UDP, SCTP, ICMP, ICMPv6, ARP, or a number
	Reply       bool              `json:"reply,omitempty"` // the packet goes back to who opened the flow
	TCPFlags    string            `json:"tcpFlags,omitempty"`
	ICMP        *ICMP             `json:"icmp,omitempty"`
	Length      int               `json:"length"` // of the packet, as its header says
	Reason      Reason            `json:"reason"`
}

// PodName is namespace/name of the pod whose rules the packet met.
func (e *Event) PodName() string { return e.Namespace + "/" + e.Pod }

// Peer is the end that is not the pod.
func (e *Event) Peer() *End {
	if e.Direction == ruleset.Ingress {
		return &e.From
	}
	return &e.To
}

// ICMP is what an ICMP or ICMPv6 packet is about.
type ICMP struct {
	Type uint8 `json:"type"`
	Code uint8 `json:"code"`
}

// An End is one end of a flow, and whose its address was at that time, as far as
// the daemon knew.
type End struct {
	Address   netip.Addr `json:"address,omitzero"`
	Port      uint16     `json:"port,omitempty"`
	Namespace string     `json:"namespace,omitempty"` // of the pod or the service
	Pod       string     `json:"pod,omitempty"`
	Service   string     `json:"service,omitempty"`
	Node      string     `json:"node,omitempty"` // whose own address it is
	// Labels, and NamespaceLabels, are the pod's. Events leave them out.
	Labels          map[string]string `json:"labels,omitempty"`
	NamespaceLabels map[string]string `json:"namespaceLabels,omitempty"`
}

// Name is NS/POD, svc/NS/NAME or node/NAME; empty for an address that nobody is
// known to have.
func (e *End) Name() string {
	switch {
	case e.Pod != "":
		return e.Namespace + "/" + e.Pod
	case e.Service != "":
		return "svc/" + e.Namespace + "/" + e.Service
	case e.Node != "":
		return "node/" + e.Node
	}
	return ""
}

// A Reason says what decided.
type Reason struct {
	Cause     ruleset.Cause `json:"cause"`
	Tier      string        `json:"tier,omitempty"`
	Policy    *ruleset.Ref  `json:"policy,omitempty"`     // whose rule decided
	Rule      *int          `json:"rule,omitempty"`       // its index
	Isolating []ruleset.Ref `json:"isolatedBy,omitempty"` // the policies that isolate the pod
	Text      string        `json:"text"`                 // one sentence
}

// A MonitorRequest asks for events: those since a moment that the daemon still
// has, then those to come as long as the connection lasts if Follow is set.
type MonitorRequest struct {
	Filter Filter    `json:"filter"`
	Since  time.Time `json:"since,omitzero"` // the zero Time asks for none of the past
	Follow bool      `json:"follow,omitempty"`
}

// Events are news of a monitor, oldest first.
type Events struct {
	Events []Event  `json:"events,omitempty"`
	Hidden []Hidden `json:"hidden,omitempty"`
	// Lost counts events since the last message that did not reach the daemon,
	// Skipped those that this client was too slow for.
	Lost    uint64 `json:"lost,omitempty"`
	Skipped uint64 `json:"skipped,omitempty"`
}

// Hidden counts packets of one attachment that were beyond the limit of what is
// logged, since it was last told.
type Hidden struct {
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Drops       uint64 `json:"drops,omitempty"`   // and what was audited
	Accepts     uint64 `json:"accepts,omitempty"` // flows
}

// A Filter picks events. The zero Filter picks all.
type Filter struct {
	Namespace  string              `json:"namespace,omitempty"`  // of the pod
	Pod        string              `json:"pod,omitempty"`        // NS/POD, or the beginning of a container id
	Directions []ruleset.Direction `json:"directions,omitempty"` // any of them
	Verdicts   []ruleset.Fate      `json:"verdicts,omitempty"`   // any of them
	Peer       string              `json:"peer,omitempty"`       // NS/POD, svc/NS/NAME, node/NAME, an address or a block of addresses
	Port       uint16              `json:"port,omitempty"`       // that the flow was opened to
}

// Compile returns the function that picks, or an error if Peer makes no sense.
func (f Filter) Compile() (func(*Event) bool, error) {
	peer, err := peerMatcher(f.Peer)
	if err != nil {
		return nil, err
	}
	return func(e *Event) bool {
		return f.ofPod(e.Namespace, e.Pod, e.ContainerID) &&
			(len(f.Directions) == 0 || slices.Contains(f.Directions, e.Direction)) &&
			(len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, e.Verdict)) &&
			(f.Port == 0 || f.Port == e.To.Port) &&
			peer(e.Peer())
	}, nil
}

// Hides reports whether what h hides may be something that f picks.
func (f Filter) Hides(h *Hidden) bool {
	accepts := len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, ruleset.Accepted)
	drops := len(f.Verdicts) == 0 || slices.Contains(f.Verdicts, ruleset.Dropped) || slices.Contains(f.Verdicts, ruleset.Audited)
	return f.ofPod(h.Namespace, h.Pod, h.ContainerID) && (drops && h.Drops > 0 || accepts && h.Accepts > 0)
}

func (f Filter) ofPod(namespace, pod, container string) bool {
	return (f.Namespace == "" || f.Namespace == namespace) &&
		(f.Pod == "" || f.Pod == namespace+"/"+pod || strings.HasPrefix(container, f.Pod))
}

// errPeer is what a peer that can't be read gets.
var errPeer = errors.New("want NS/POD, svc/NS/NAME, node/NAME, an address or a block of addresses")

// peerMatcher reads a peer. The empty one is anybody.
func peerMatcher(s string) (func(*End) bool, error) {
	if s == "" {
		return func(*End) bool { return true }, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return func(e *End) bool { return e.Address == a }, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return func(e *End) bool { return p.Contains(e.Address) }, nil
	}
	if parts := strings.Split(s, "/"); slices.Contains(parts, "") || len(parts) != 2 && !(len(parts) == 3 && parts[0] == "svc") {
		return nil, fmt.Errorf("peer %.80q: %w", s, errPeer)
	}
	return func(e *End) bool { return e.Name() == s }, nil
}

// A FlowsRequest asks for the flows that were seen at or after Since; the zero
// Time asks for all that the daemon remembers.
type FlowsRequest struct {
	Since time.Time `json:"since,omitzero"`
}

// A FlowList is what was observed, most recent first.
type FlowList struct {
	// Began is when the oldest observation may have been made: nothing is known
	// of the time before.
	Began time.Time `json:"began"`
	Flows []Flow    `json:"flows"`
	// Forgotten counts flows that had to make room for others, Hidden and Lost the
	// events that did not reach this list: beyond a limit, or lost on the way.
	Forgotten uint64 `json:"forgotten,omitempty"`
	Hidden    uint64 `json:"hidden,omitempty"`
	Lost      uint64 `json:"lost,omitempty"`
}

// A Flow is what the events of one kind had in common: the two ends, the
// destination port, the protocol, the verdict and the pod whose rules gave it.
type Flow struct {
	From      End               `json:"from"` // without a port
	To        End               `json:"to"`
	Protocol  string            `json:"protocol"`
	Direction ruleset.Direction `json:"direction"` // ingress: the verdict is To's, egress: From's
	Verdict   ruleset.Fate      `json:"verdict"`
	Reason    Reason            `json:"reason"` // of the last event
	First     time.Time         `json:"first"`
	Last      time.Time         `json:"last"`
	Count     uint64            `json:"count"` // events: packets, or flows where Verdict is not Drop
}

// Traffic is what one attachment's rules and its interface have counted since
// they were made.
type Traffic struct {
	Attachment
	Audit   bool       `json:"audit,omitempty"`
	Rules   []RuleView `json:"rules"`
	Dropped []DropView `json:"dropped"`
	Hidden  Hidden     `json:"hidden"`
	// Received and Sent are the interface's, from the pod's point of view.
	Received Volume `json:"received"`
	Sent     Volume `json:"sent"`
}

// A Volume is an amount of traffic.
type Volume struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}
