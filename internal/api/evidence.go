package api

import (
	"time"

	"github.com/podwall/podwall/internal/ruleset"
)

// VerbEvidence asks for observed flows with what it takes to judge them again:
// EvidenceRequest; answered by evidence.Evidence.
const VerbEvidence Verb = "evidence"

// An EvidenceRequest asks for the flows that were seen at or after Since, all if
// that is the zero Time, and for some policies whether or not they concern any.
type EvidenceRequest struct {
	Since    time.Time     `json:"since,omitzero"`
	Policies []ruleset.Ref `json:"policies,omitempty"`
}
