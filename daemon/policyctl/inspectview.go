package main

import (
	"net/netip"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// An inspection is api.Inspection with the contract's names and no field left
// out: what a script reads is always there, lists are lists also when empty.
type inspection struct {
	Namespace   string                `json:"namespace"`
	Name        string                `json:"name"`
	UID         string                `json:"uid"`
	ContainerID string                `json:"containerID"`
	Interface   string                `json:"interface"`
	Netns       string                `json:"netns"`
	Network     string                `json:"network,omitempty"`
	Addresses   []netip.Addr          `json:"addresses"`
	Labels      map[string]string     `json:"labels,omitempty"`
	Isolation   api.Isolation         `json:"isolation"`
	Audit       bool                  `json:"audit,omitempty"`
	Policies    []api.SelectingPolicy `json:"policies"`
	Rules       []rule                `json:"rules"`
	Dropped     []api.DropView        `json:"dropped"`
	Kernel      api.KernelView        `json:"kernel"`
	Status      api.AttachmentStatus  `json:"status"`
}

// A rule is api.RuleView with the contract's names.
type rule struct {
	Direction ruleset.Direction `json:"direction"`
	Verdict   ruleset.Action    `json:"verdict"`
	Policy    string            `json:"policy"`
	Kind      string            `json:"kind"`
	Tier      string            `json:"tier"`
	Index     int               `json:"index"`
	Ports     []ports           `json:"ports"`
	Anyone    bool              `json:"anyone,omitempty"`
	Peers     int               `json:"peers"`
	Sample    []netip.Prefix    `json:"sample,omitempty"`
	Packets   uint64            `json:"packets"`
	Bytes     uint64            `json:"bytes"`
}

// A ports is ruleset.Ports with both ends of the range always there, a single
// port's too. All ports are 0 to 65535.
type ports struct {
	Protocol ruleset.Proto `json:"protocol"`
	Port     uint16        `json:"port"`
	EndPort  uint16        `json:"endPort"`
}

func viewOf(in api.Inspection) inspection {
	v := inspection{
		Namespace: in.Namespace, Name: in.Name, UID: in.UID,
		ContainerID: in.ContainerID, Interface: in.Interface, Netns: in.Netns, Network: in.Network,
		Addresses: list(in.Addresses), Labels: in.Labels, Isolation: in.Isolation, Audit: in.Audit,
		Policies: list(in.Policies), Rules: []rule{}, Dropped: list(in.Dropped),
		Kernel: in.Kernel, Status: in.Status,
	}
	for _, r := range in.Rules {
		v.Rules = append(v.Rules, ruleOf(r))
	}
	return v
}

func ruleOf(r api.RuleView) rule {
	v := rule{
		Direction: r.Direction, Verdict: r.Verdict, Policy: r.Policy, Kind: r.Kind, Tier: r.Tier, Index: r.Index,
		Ports: []ports{}, Anyone: r.Anyone, Peers: r.Peers, Sample: r.Sample, Packets: r.Packets, Bytes: r.Bytes,
	}
	for _, p := range r.Ports {
		v.Ports = append(v.Ports, portsOf(p))
	}
	return v
}

func portsOf(p ruleset.Ports) ports {
	if p.Proto == ruleset.AnyProto {
		p = ruleset.AllPorts(p.Proto) // a range is ignored there, so say what it means
	}
	return ports{Protocol: p.Proto, Port: p.First, EndPort: p.Last}
}

// list is s as a list that is never null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
