package ruleset

import (
	"fmt"
	"net/netip"
)

// An Action is what a rule or the end of a tier does with a flow.
type Action uint8

const (
	Drop   Action = iota // the zero Action
	Accept               // let the flow through
	Pass                 // leave the flow to the next tier
)

var actionNames = [...]string{Drop: "Drop", Accept: "Accept", Pass: "Pass"}

// String is the action's name, as policyctl prints it.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// MarshalText writes the action's name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other text is an error.
func (a *Action) UnmarshalText(b []byte) error {
	for i, name := range actionNames {
		if name == string(b) {
			*a = Action(i)
			return nil
		}
	}
	return fmt.Errorf("action %q: want Drop, Accept or Pass", b)
}

// A Direction is a flow's, as the pod sees it: who opened it, not which way a
// packet of it goes.
type Direction uint8

const (
	Ingress Direction = iota // opened by the far end
	Egress                   // opened by the pod
)

var directionNames = [...]string{Ingress: "ingress", Egress: "egress"}

// String is "ingress" or "egress".
func (d Direction) String() string { return directionNames[d] }

// MarshalText writes "ingress" or "egress".
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other text is an error.
func (d *Direction) UnmarshalText(b []byte) error {
	for i, name := range directionNames {
		if name == string(b) {
			*d = Direction(i)
			return nil
		}
	}
	return fmt.Errorf("direction %q: want ingress or egress", b)
}

// A Proto is an IP protocol number, or AnyProto. The zero Proto matches nothing.
type Proto uint8

const (
	TCP      Proto = 6
	UDP      Proto = 17
	SCTP     Proto = 132
	AnyProto Proto = 255 // every protocol; 255 is reserved by IANA and never on the wire
)

// String is the protocol's name in capitals, as Kubernetes writes it, or its number.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	case AnyProto:
		return "any"
	}
	return fmt.Sprintf("%d", uint8(p))
}

// MarshalText writes String.
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote for the protocols that rules name,
// and for the zero Proto.
func (p *Proto) UnmarshalText(b []byte) error {
	for _, q := range []Proto{0, TCP, UDP, SCTP, AnyProto} {
		if q.String() == string(b) {
			*p = q
			return nil
		}
	}
	return fmt.Errorf("protocol %q: want TCP, UDP, SCTP or any", b)
}

// HasPorts reports whether flows of p carry port numbers that a rule may name.
func (p Proto) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// Ports is a protocol and a range of destination ports, First and Last included.
// With a protocol that has no ports, and with AnyProto, the range is ignored.
// The zero Ports matches nothing.
type Ports struct {
	Proto Proto  `json:"protocol"`
	First uint16 `json:"port,omitempty"`
	Last  uint16 `json:"endPort,omitempty"`
}

// AllPorts matches every port of p.
func AllPorts(p Proto) Ports { return Ports{Proto: p, First: 0, Last: 65535} }

// AnyPort matches every packet of every protocol.
var AnyPort = Ports{Proto: AnyProto}

// whole reports whether the range leaves out no port of the protocol.
func (p Ports) whole() bool { return !p.Proto.HasPorts() || (p.First == 0 && p.Last == 65535) }

// none reports whether no packet matches p: a range that ends before it begins
// is as empty as the zero Ports.
func (p Ports) none() bool { return p.Proto == 0 || (p.Proto.HasPorts() && p.First > p.Last) }

// Contains reports whether a flow of proto to port matches.
func (p Ports) Contains(proto Proto, port uint16) bool {
	switch {
	case p.Proto == AnyProto:
		return true
	case p.Proto == 0 || p.Proto != proto:
		return false
	}
	return !proto.HasPorts() || (p.First <= port && port <= p.Last)
}

// String is "TCP 80", "TCP 80-90", "UDP" for all its ports, or "any".
func (p Ports) String() string {
	switch {
	case p.whole():
		return p.Proto.String()
	case p.First == p.Last:
		return fmt.Sprintf("%s %d", p.Proto, p.First)
	}
	return fmt.Sprintf("%s %d-%d", p.Proto, p.First, p.Last)
}

// Peers is a set of far ends: every address, or those inside Prefixes. The zero
// Peers holds nobody.
type Peers struct {
	Any bool `json:"any,omitempty"`
	// Prefixes are masked, sorted, and disjoint: none contains another.
	// NewPeers makes them so.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
}

// A Match is met by a flow whose far end is one of Peers and whose protocol and
// destination port are in one of Ports.
type Match struct {
	Peers Peers   `json:"peers"`
	Ports []Ports `json:"ports,omitempty"`
}

// A Ref names the object that a rule comes from.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"` // empty for cluster-wide kinds
	Name      string `json:"name"`
}

// String is namespace/name, or the name alone for cluster-wide kinds.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// A Rule does Action with the flows that meet any one of its Matches. A Rule
// without Matches meets no flow.
type Rule struct {
	Origin  Ref     `json:"origin"`
	Index   int     `json:"index"` // position in the origin's list for this direction
	Action  Action  `json:"action"`
	Matches []Match `json:"matches,omitempty"`
}

// A Tier is a list of rules that are tried in order; the first that a flow meets
// decides. A flow that meets none of them gets Default.
type Tier struct {
	Name string `json:"name"` // one of the Tier… constants
	// Selected names the policies that select the pod in this direction. Where
	// Default is Drop, these are the ones that isolate it.
	Selected []Ref  `json:"selected,omitempty"`
	Rules    []Rule `json:"rules,omitempty"`
	Default  Action `json:"default"`
}

// The tiers, in the order in which a flow meets them.
const (
	TierService  = "service"  // virtual addresses, judged by the endpoints behind them
	TierNode     = "node"     // the pod's own node, which Kubernetes always admits
	TierAdmin    = "admin"    // ClusterNetworkPolicy, tier Admin
	TierPolicy   = "policy"   // NetworkPolicy
	TierBaseline = "baseline" // ClusterNetworkPolicy, tier Baseline
)

// A Chain judges the flows of one direction: its Tiers in order, then Default.
// The zero Chain drops everything.
type Chain struct {
	Tiers   []Tier `json:"tiers,omitempty"`
	Default Action `json:"default"` // Pass counts as Drop
}

// A RuleSet is the whole firewall of one attachment.
// The zero RuleSet isolates it in both directions.
type RuleSet struct {
	// Addresses are the attachment's own. They say which address families its
	// table has rules for even while no peer has an address of that family.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Ingress   Chain        `json:"ingress"`
	Egress    Chain        `json:"egress"`
	// RawSockets lets the pod send whole frames, with any source address.
	RawSockets bool `json:"rawSockets,omitempty"`
	// Owned asks that only podwalld may change the tables (table flags owner and
	// persist, Linux 6.9).
	Owned bool `json:"owned,omitempty"`
	// Adopted says that the pod ran before its rules came.
	Adopted Adoption `json:"adopted,omitempty"`
	// Log says which packets the daemon gets to see.
	Log Logging `json:"log,omitzero"`
	// Audit lets what NetworkPolicies would drop pass, and logs it.
	Audit bool `json:"audit,omitempty"`
}

// Chain returns the chain of one direction.
func (rs *RuleSet) Chain(d Direction) Chain {
	if d == Ingress {
		return rs.Ingress
	}
	return rs.Egress
}

// An Adoption says how flows are judged that were open before their connections
// were tracked: nobody saw who opened them, so they are judged both as the pod's
// own and as the far end's, and accepted if either may be.
type Adoption uint8

const (
	// NotAdopted: every flow was tracked from its first packet.
	NotAdopted Adoption = iota
	// AdoptedTCP: a TCP flow first seen without SYN may be older than the rules.
	// It can't open a connection.
	AdoptedTCP
	// AdoptedNow: so may any UDP flow. Meant for a short while after adoption,
	// since a UDP flow's first packet looks like any other.
	AdoptedNow
)

// Isolated reports whether a policy isolates the pod in direction d.
func (rs *RuleSet) Isolated(d Direction) bool {
	for _, t := range rs.Chain(d).Tiers {
		if t.Name == TierPolicy && t.Default == Drop {
			return true
		}
	}
	return false
}

// Open reports whether c accepts every flow.
func (c Chain) Open() bool {
	for _, t := range c.Tiers {
		if t.Default == Drop {
			return false
		}
		for _, r := range t.Rules {
			if r.Action == Drop {
				return false
			}
		}
	}
	return c.Default == Accept
}
