// Package adopt finds the attachments that the node's runtimes have made, in
// libcni's cache: pods that ran before podwall came, or that its database lost.
//
//	/var/lib/cni/results/NETWORK-CONTAINER-INTERFACE ──Find──▶ store.Record
//
// # Contract
//
// Find only reads. What it can't make sense of it reports and leaves out; other
// entries count all the same. It returns attachments whose network namespace
// exists, and of these the ones that podwall should have: each on a network whose
// plugins podwall was chained behind, and the pod's first interface (eth0, where
// every container runtime of Kubernetes puts the pod network) on any other, so
// that a secondary network which nobody gave to podwall is left alone.
package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

// firstInterface is where runtimes put the pod network.
const firstInterface = "eth0"

// Find returns the attachments in the cache below dir, as records that nothing
// has been applied for yet, and the entries it could not read, joined. tracked
// tells whether podwall's table stands in a namespace: where it does not, the
// pod's connections were not tracked so far, and the record says so as of now.
func Find(dir string, now time.Time, tracked func(netns int) bool) ([]store.Record, error) {
	cache := libcni.NewCNIConfigWithCacheDir(nil, dir, nil)
	entries, err := cache.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var records []store.Record
	var errs []error
	for _, e := range entries {
		chained := bytes.Contains(e.Config, []byte(`"podwall"`))
		if !chained && e.IfName != firstInterface {
			continue
		}
		r, err := record(cache, e, now, tracked)
		switch {
		case errors.Is(err, os.ErrNotExist): // a pod of the past
		case err != nil:
			errs = append(errs, fmt.Errorf("libcni's cache: network %s, container %s, interface %s: %w", e.Network, e.ContainerID, e.IfName, err))
		default:
			records = append(records, r)
		}
	}
	return records, errors.Join(errs...)
}

// record makes a record of one entry. A namespace that is gone is an error that
// matches os.ErrNotExist.
func record(cache *libcni.CNIConfig, e *libcni.NetworkAttachment, now time.Time, tracked func(int) bool) (store.Record, error) {
	r := store.Record{Attachment: api.Attachment{
		Key:       api.Key{ContainerID: e.ContainerID, Interface: e.IfName},
		Netns:     e.NetNS,
		Network:   e.Network,
		Namespace: "default",
	}}
	for _, arg := range e.CniArgs {
		switch arg[0] {
		case "K8S_POD_NAMESPACE":
			r.Namespace = arg[1]
		case "K8S_POD_NAME":
			r.Name = arg[1]
		case "K8S_POD_UID":
			r.UID = arg[1]
		}
	}
	if err := result(cache, e, &r); err != nil {
		return r, err
	}
	f, err := os.Open(r.Netns)
	if err != nil {
		return r, fmt.Errorf("network namespace: %w", err)
	}
	defer f.Close()
	if !tracked(int(f.Fd())) {
		r.Adopted, r.AdoptedAt = ruleset.AdoptedNow, now
	}
	r.NetnsID, err = reconcile.NetnsIDOf(f)
	return r, err
}

// result takes the addresses, and the namespace that older versions of libcni
// cache only there, from the result of the entry's ADD.
func result(cache *libcni.CNIConfig, e *libcni.NetworkAttachment, r *store.Record) error {
	cached, err := cache.GetNetworkListCachedResult(
		&libcni.NetworkConfigList{Name: e.Network, CNIVersion: types100.ImplementedSpecVersion},
		&libcni.RuntimeConf{ContainerID: e.ContainerID, IfName: e.IfName})
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if cached == nil {
		return errors.New("result: missing")
	}
	res, err := types100.NewResultFromResult(cached)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	for i, ifc := range res.Interfaces {
		if ifc.Name != e.IfName || ifc.Sandbox == "" {
			continue
		}
		if r.Netns == "" {
			r.Netns = ifc.Sandbox
		}
		r.Addresses = append(r.Addresses, addresses(res, i)...)
	}
	if len(res.Interfaces) == 0 {
		r.Addresses = addresses(res, -1)
	}
	return nil
}

// addresses returns those of interface i of the result, and those that the
// result gives to no interface.
func addresses(res *types100.Result, i int) []netip.Addr {
	var out []netip.Addr
	for _, ip := range res.IPs {
		if ip.Interface != nil && *ip.Interface != i {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}
