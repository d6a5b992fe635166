package expect

import (
	"fmt"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Verdict is what is expected of a flow.
type Verdict string

// The Verdicts.
const (
	Allow Verdict = "allow"
	Deny  Verdict = "deny"
)

// An Expectation is one entry of a file. It is about every flow from one of From
// to one of To on one of Ports.
type Expectation struct {
	File  string
	Entry int // 1 is the first of the file
	Line  int // where the entry begins

	Name     string // empty if it has none
	From, To []explain.End
	Ports    []uint16
	Protocol ruleset.Proto
	Expect   Verdict
	Because  string // the policy that must decide, as ruleset.Ref prints it; empty for any
}

// Flows are those that e is about, in the order of its lists.
func (e Expectation) Flows() []api.ExplainRequest {
	var flows []api.ExplainRequest
	for _, from := range e.From {
		for _, to := range e.To {
			for _, port := range e.Ports {
				flows = append(flows, api.ExplainRequest{From: from.String(), To: to.String(), Port: port, Protocol: e.Protocol})
			}
		}
	}
	return flows
}

// object is e as errors name it.
func (e Expectation) object() string {
	if e.Name == "" {
		return fmt.Sprintf("%s: entry %d, line %d", e.File, e.Entry, e.Line)
	}
	return fmt.Sprintf("%s: entry %d %q, line %d", e.File, e.Entry, e.Name, e.Line)
}
