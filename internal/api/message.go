package api

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/podwall/podwall/internal/ruleset"
)

// Version is the version of the conversation. Either side refuses another.
const Version = 1

// A Verb says what a message is.
type Verb string

// The requests. Each is answered by a message of verb VerbDone or VerbError,
// VerbAdd first by VerbRules.
const (
	VerbAdd      Verb = "add"      // Attachment, with the namespace's descriptor
	VerbApplied  Verb = "applied"  // Applied
	VerbCheck    Verb = "check"    // Attachment, with the namespace's descriptor if there is one
	VerbDel      Verb = "del"      // Key
	VerbGC       Verb = "gc"       // GC
	VerbReady    Verb = "ready"    // nothing; answered by an error while ADD can't work
	VerbStatus   Verb = "status"   // nothing; answered by Status
	VerbPods     Verb = "pods"     // nothing; answered by []PodSummary
	VerbPolicies Verb = "policies" // nothing; answered by []PolicySummary
	VerbInspect  Verb = "inspect"  // InspectRequest; answered by []Inspection
	VerbExplain  Verb = "explain"  // ExplainRequest; answered by Explanation
)

// The answers.
const (
	VerbRules Verb = "rules" // ruleset.RuleSet
	VerbDone  Verb = "done"
	VerbError Verb = "error" // Error
)

// An Envelope is one message.
type Envelope struct {
	Version int    `json:"version"`
	Verb    Verb   `json:"verb"`
	Body    []byte `json:"-"` // JSON, which may be long, on a line of its own
}

// A Key identifies an attachment, as the CNI specification does: a container and
// the interface inside it. Names are no identity: a late DEL of an old sandbox
// must not touch the new pod of the same name.
type Key struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// String is containerID/interface, with the container's id cut to 12 characters
// as people know it from their runtime.
func (k Key) String() string {
	id := k.ContainerID
	if len(id) > 12 {
		id = id[:12]
	}
	return id + "/" + k.Interface
}

// An Attachment is one interface of one sandbox.
type Attachment struct {
	Key
	Netns     string       `json:"netns"`             // path of the network namespace
	Network   string       `json:"network,omitempty"` // name of the CNI network
	Namespace string       `json:"namespace"`
	Name      string       `json:"name,omitempty"`
	UID       string       `json:"uid,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// RawSockets says that the network's configuration lets the pod send whole
	// frames, past its rules.
	RawSockets bool `json:"rawSockets,omitempty"`
}

// Pod is namespace/name, or the container's id for a pod without a name.
func (a Attachment) Pod() string {
	if a.Name == "" {
		return a.Namespace + "/" + a.Key.String()
	}
	return a.Namespace + "/" + a.Name
}

// Applied is what the plugin says after it has installed the rule set.
type Applied struct {
	Epoch      ruleset.Epoch `json:"epoch"`
	Generation uint32        `json:"generation"` // of the namespace's nftables, after the transaction
	Took       time.Duration `json:"took"`       // nanoseconds
	// Others are the epochs of the namespace's other attachments.
	Others []ruleset.Epoch `json:"others,omitempty"`
}

// GC names the attachments of a network that still exist; the others of the same
// network may be forgotten.
type GC struct {
	Network string `json:"network"`
	Valid   []Key  `json:"valid"`
}

// A Code says what kind of failure an Error is.
type Code string

const (
	CodeInvalid     Code = "invalid"     // the request is wrong; again would fail again
	CodeUnavailable Code = "unavailable" // not now; try again later
	CodeNotFound    Code = "not-found"
	CodeInternal    Code = "internal"
	CodeVersion     Code = "version" // the other side speaks another version; invalid, too
)

// An Error is a refusal by the daemon. errors.Is matches it with the Err… value
// of its code.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error is the daemon's message.
func (e *Error) Error() string { return e.Message }

// Is reports whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case CodeInvalid:
		return target == ErrInvalid
	case CodeUnavailable:
		return target == ErrUnavailable
	case CodeNotFound:
		return target == ErrNotFound
	case CodeVersion:
		return target == ErrVersion || target == ErrInvalid
	}
	return false
}

var (
	// ErrInvalid says that the request can never succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrUnavailable says that the daemon can't be reached or can't serve now.
	ErrUnavailable = errors.New("podwalld is not available")
	// ErrVersion says that the two sides are of different releases.
	ErrVersion = errors.New("podwall and podwalld are of different releases")
	// ErrNotFound says that what the request names does not exist.
	ErrNotFound = errors.New("not found")
)

// Errorf returns an *Error of the given code.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
