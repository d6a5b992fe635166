package api

import (
	"net/netip"
	"time"

	"github.com/podwall/podwall/internal/ruleset"
)

// A State says how far an attachment's firewall is what it should be.
type State string

const (
	StateEnforced    State = "Enforced"    // the kernel holds the rules of the last known policy
	StatePending     State = "Pending"     // being installed
	StateError       State = "Error"       // could not be installed; the rules before stand
	StateDrifted     State = "Drifted"     // someone else changed the rules; not repaired yet
	StateUnprotected State = "Unprotected" // rules in the namespace don't bind this pod
)

// Status is the daemon's own state.
type Status struct {
	Ready       bool          `json:"ready"`
	Reason      string        `json:"reason,omitempty"` // why it is not ready
	Version     string        `json:"version"`
	Node        string        `json:"node"`
	StartedAt   time.Time     `json:"startedAt"`
	Source      SourceStatus  `json:"source"`
	Attachments map[State]int `json:"attachments"`
	Audited     int           `json:"audited,omitempty"` // attachments whose NetworkPolicies are not enforced
	Store       StoreStatus   `json:"store"`
	Problems    []Problem     `json:"problems,omitempty"`
}

// SourceStatus says where policy comes from and how fresh it is.
type SourceStatus struct {
	Kind     string         `json:"kind"` // "manifests" or "kubernetes"
	Location string         `json:"location"`
	Synced   bool           `json:"synced"`
	SyncedAt time.Time      `json:"syncedAt,omitzero"`
	Objects  map[string]int `json:"objects,omitempty"` // by kind
	// HeardAt is when the API server last said anything; Lag is for how long what
	// it would say has not come through, of the kind that fares worst, nanoseconds.
	HeardAt time.Time     `json:"heardAt,omitzero"`
	Lag     time.Duration `json:"lag,omitempty"`
	// KnownAt is set while what is in force was known then, before this start of
	// the daemon, and has not all been read since.
	KnownAt time.Time `json:"knownAt,omitzero"`
}

// StoreStatus describes the database.
type StoreStatus struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Note  string `json:"note,omitempty"` // what happened to it at start, if anything did
}

// A Problem is something in the input or on the node that could not be honoured.
type Problem struct {
	Object  string `json:"object"`          // kind namespace/name, or a file
	Field   string `json:"field,omitempty"` // as kubectl explain writes it
	Message string `json:"message"`
}

// String is "object: field: message".
func (p Problem) String() string {
	if p.Field == "" {
		return p.Object + ": " + p.Message
	}
	return p.Object + ": " + p.Field + ": " + p.Message
}

// Isolation says in which directions policies isolate a pod.
type Isolation struct {
	Ingress bool `json:"ingress"`
	Egress  bool `json:"egress"`
}

// AttachmentStatus is the state of one attachment's firewall.
type AttachmentStatus struct {
	State     State         `json:"state"`
	Message   string        `json:"message"`
	Revision  string        `json:"revision"`
	Epoch     ruleset.Epoch `json:"epoch"`
	AppliedAt time.Time     `json:"appliedAt,omitzero"`
	Took      time.Duration `json:"took"` // of the last transaction, nanoseconds
}

// A PodSummary is one line of `policyctl get pods`.
type PodSummary struct {
	Attachment
	Isolation Isolation        `json:"isolation"`
	Audit     bool             `json:"audit,omitempty"` // NetworkPolicies only say what they would drop
	Policies  int              `json:"policies"`
	Status    AttachmentStatus `json:"status"`
}

// A PolicySummary is one line of `policyctl get policies`.
type PolicySummary struct {
	ruleset.Ref
	Ingress bool     `json:"ingress"` // isolates in this direction
	Egress  bool     `json:"egress"`
	Pods    []string `json:"pods"` // those on this node that it selects, namespace/name
	Problem string   `json:"problem,omitempty"`
}

// InspectRequest asks for one pod. Pod is namespace/name or the beginning of a
// container id; an empty Interface means all of them.
type InspectRequest struct {
	Pod       string `json:"pod"`
	Interface string `json:"interface,omitempty"`
}

// An Inspection is everything about one attachment's firewall.
type Inspection struct {
	Attachment
	Labels    map[string]string `json:"labels,omitempty"`
	Isolation Isolation         `json:"isolation"`
	Audit     bool              `json:"audit,omitempty"`
	Policies  []SelectingPolicy `json:"policies"`
	Rules     []RuleView        `json:"rules"`
	Dropped   []DropView        `json:"dropped"`
	Kernel    KernelView        `json:"kernel"`
	Status    AttachmentStatus  `json:"status"`
}

// A SelectingPolicy is a policy that selects the pod, and why.
type SelectingPolicy struct {
	ruleset.Ref
	Ingress  bool   `json:"ingress"`
	Egress   bool   `json:"egress"`
	Selector string `json:"selector"` // that picks the pod, as kubectl writes selectors
	Problem  string `json:"problem,omitempty"`
}

// A RuleView is one rule with its counters.
type RuleView struct {
	Direction ruleset.Direction `json:"direction"`
	Verdict   ruleset.Action    `json:"verdict"`
	Policy    string            `json:"policy"` // namespace/name
	Kind      string            `json:"kind"`
	Tier      string            `json:"tier"`
	Index     int               `json:"index"`
	Ports     []ruleset.Ports   `json:"ports"` // none means none; any is one entry of protocol "any"
	Anyone    bool              `json:"anyone,omitempty"`
	Peers     int               `json:"peers"` // addresses and blocks
	Sample    []netip.Prefix    `json:"sample,omitempty"`
	// Packets and Bytes count what the rule judged: the first packet of a flow,
	// and the next one of each open flow whenever the epoch moves.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// A DropView counts the packets that no rule accepted.
type DropView struct {
	// Direction is ingress or egress; or untracked, for packets that belong to no
	// connection; or forged, for what the pod sent with another's address, past
	// the IP stack, or in the kernel's name; or audited, for flows that no rule
	// accepted and that passed all the same, since the pod is audited.
	Direction string `json:"direction"`
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
}

// A KernelView compares what the kernel holds with what it should.
type KernelView struct {
	Table       string   `json:"table"` // inet podwall
	Generation  uint32   `json:"generation"`
	InSync      bool     `json:"inSync"`
	Differences []string `json:"differences,omitempty"`
	Error       string   `json:"error,omitempty"`
}

// ExplainRequest asks what becomes of a flow. An end is namespace/name of a pod,
// an address, or svc/namespace/name.
type ExplainRequest struct {
	From     string        `json:"from"`
	To       string        `json:"to"`
	Port     uint16        `json:"port"`
	Protocol ruleset.Proto `json:"protocol"`
	// Steps asks for each step that leads to an opinion.
	Steps bool `json:"steps,omitempty"`
}

// An Explanation is the answer: the flow passes if both ends let it.
type Explanation struct {
	Verdict string  `json:"verdict"` // "Allow" or "Deny"
	From    Party   `json:"from"`
	To      Party   `json:"to"`
	Egress  Opinion `json:"egress"`  // of the pod that opens the flow
	Ingress Opinion `json:"ingress"` // of the pod that it goes to
}

// An Opinion is what one end says to a flow.
type Opinion struct {
	Verdict  string        `json:"verdict"`
	End      string        `json:"end"`              // whose firewall this is, or whose there is none
	Tier     string        `json:"tier,omitempty"`   // that decided
	Policy   *ruleset.Ref  `json:"policy,omitempty"` // whose rule decided
	Rule     *int          `json:"rule,omitempty"`   // its index
	Isolated []ruleset.Ref `json:"isolatedBy,omitempty"`
	Audited  bool          `json:"audited,omitempty"` // Allow only because NetworkPolicies don't drop where a pod is audited
	Reason   string        `json:"reason"`            // one sentence
	Steps    []Step        `json:"steps,omitempty"`   // in order, if they were asked for
}
