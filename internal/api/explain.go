package api

import (
	"net/netip"

	"github.com/podwall/podwall/internal/ruleset"
)

// A Party is one end of a flow, as it was found.
type Party struct {
	Name      string       `json:"name"` // of the pod or Service, else the address
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// What says what stands there, where that is neither a pod nor a Service.
	What string `json:"what,omitempty"`
}

// A Step is one thing that was tried on the way to an Opinion.
type Step struct {
	Tier   string       `json:"tier"` // service, node, admin, policy, baseline; or end, if none of them decided
	Policy *ruleset.Ref `json:"policy,omitempty"`
	Rule   *int         `json:"rule,omitempty"`
	// Decides says that the flow went no further.
	Decides bool   `json:"decides,omitempty"`
	Text    string `json:"text"`
}
