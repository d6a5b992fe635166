package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podwall/podwall/conf/netconf"
)

// A previous is the result of the plugin before this one.
type previous struct {
	result
	output []byte // what ADD prints
}

// A result is the part of a CNI result that matters here. It is the same in all
// versions from 0.3.0 on.
type result struct {
	CNIVersion string `json:"cniVersion"`
	Interfaces []struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
	IPs []struct {
		Address   netip.Prefix `json:"address"`
		Interface *int         `json:"interface"`
	} `json:"ips"`
}

// parsePrevious reads c's prevResult. Its errors name the field.
func parsePrevious(c *netconf.Conf) (previous, error) {
	if c.PrevResult == nil {
		return previous{}, c.Err("prevResult", errors.New("missing: list podwall after the plugin that makes the interface"))
	}
	var p previous
	if err := json.Unmarshal(c.PrevResult, &p.result); err != nil {
		return previous{}, c.Err("prevResult", err)
	}
	if err := p.validate(c); err != nil {
		return previous{}, err
	}
	var err error
	if p.output, err = output(c.PrevResult, p.CNIVersion, c.CNIVersion); err != nil {
		return previous{}, c.Err("prevResult", err)
	}
	return p, nil
}

func (r *result) validate(c *netconf.Conf) error {
	// An older result has other fields. Before 1.0 it may leave its version out.
	if modern, err := version.GreaterThanOrEqualTo(cmp.Or(r.CNIVersion, c.CNIVersion), "0.3.0"); err != nil || !modern {
		return c.Err("prevResult.cniVersion", fmt.Errorf("%q: want 0.3.0 or later", r.CNIVersion))
	}
	for i, dev := range r.Interfaces {
		if dev.Name == "" {
			return c.Err(fmt.Sprintf("prevResult.interfaces[%d].name", i), errors.New("missing"))
		}
	}
	for i, ip := range r.IPs {
		if !ip.Address.IsValid() {
			return c.Err(fmt.Sprintf("prevResult.ips[%d].address", i), errors.New("missing"))
		}
		if j := ip.Interface; j != nil && (*j < 0 || *j >= len(r.Interfaces)) {
			return c.Err(fmt.Sprintf("prevResult.ips[%d].interface", i), fmt.Errorf("%d: there are %d interfaces", *j, len(r.Interfaces)))
		}
	}
	return nil
}

// output returns raw, a result of version from, as one of version to. If that is
// the same, raw keeps also the fields that this program does not know.
func output(raw json.RawMessage, from, to string) ([]byte, error) {
	switch from {
	case to:
		return raw, nil
	case "":
		return withVersion(raw, to)
	}
	old, err := create.Create(from, raw)
	if err != nil {
		return nil, err
	}
	converted, err := old.GetAsVersion(to)
	if err != nil {
		return nil, err
	}
	return json.Marshal(converted)
}

// withVersion returns raw with a cniVersion. Before 1.0 a result may leave it
// out, and means the network's.
func withVersion(raw json.RawMessage, to string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("null: want an object")
	}
	v, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	fields["cniVersion"] = v
	return json.Marshal(fields)
}

// addresses returns those that belong to the pod's interface iface. An address
// without an interface is the pod's too.
func (r *result) addresses(iface string) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if ip.Interface != nil {
			dev := r.Interfaces[*ip.Interface]
			if dev.Name != iface || dev.Sandbox == "" {
				continue
			}
		}
		addrs = append(addrs, ip.Address.Addr().Unmap())
	}
	return addrs
}
