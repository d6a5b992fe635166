package reconcile

import (
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// pod names the pod that a belongs to, as manifests do.
func (a *attachment) pod() policy.Name {
	if a.record.Name == "" {
		// Nobody said whose it is: a pod of its own, which no manifest can be.
		return policy.Name{Namespace: a.record.Namespace, Name: a.record.Key.String()}
	}
	return policy.Name{Namespace: a.record.Namespace, Name: a.record.Name}
}

// compile returns a's rule set at the present version, and notes what it does not
// keep. k.mu is held.
func (k *Keeper) compile(a *attachment) ruleset.RuleSet {
	w := k.world
	pod := k.podOf(w, a)
	a.firewall = w.Firewall(policy.Target{
		Pod:                pod,
		Addresses:          a.record.Addresses,
		Node:               k.node(),
		NodeEgressByPolicy: k.nodeEgressByPolicy,
		Adopted:            a.record.Adopted,
		RawSockets:         a.record.RawSockets || k.protection.honours(pod),
		Owned:              k.protection.owns(pod),
	}, a.firewall)
	return k.bounded(a, pod, k.logged(w, pod, a.firewall.Rules))
}

// policy returns the World that rule sets are compiled from. k.mu is held.
func (k *Keeper) policy() *policy.World { return k.world }

// forgetUnused forgets what was worked out for pods that are not here any more.
func (k *Keeper) forgetUnused() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.world.Keep(func(yield func(*policy.Firewall) bool) {
		for _, a := range k.attachments {
			if !yield(a.firewall) {
				return
			}
		}
	})
}

// podOf returns the pod that a belongs to.
func (k *Keeper) podOf(w *policy.World, a *attachment) policy.Pod {
	id := a.pod()
	if p, ok := w.Pod(id.Namespace, strangerName(id.Name, a.record.UID)); ok {
		return p
	}
	if p, ok := w.Pod(id.Namespace, id.Name); ok && sameUID(p.UID, a.record.UID) {
		return p
	}
	return k.unlisted(a)
}

// strangerName is what a pod is called whose own name is another's: no pod can
// have such a name.
func strangerName(name, uid string) string { return name + "/" + uid }

// unlisted is a pod that the source does not know: without labels.
func (k *Keeper) unlisted(a *attachment) policy.Pod {
	id := a.pod()
	return policy.Pod{Namespace: id.Namespace, Name: id.Name, UID: a.record.UID, Node: k.Node, Addresses: a.record.Addresses}
}

// sameUID reports whether two UIDs can be of one pod: StatefulSets give a new
// pod its predecessor's name, so a name alone is not enough where both are known.
func sameUID(a, b string) bool { return a == "" || b == "" || a == b }

// node returns the addresses of this node: those it has, and those its Node
// object says it has. k.mu is held.
func (k *Keeper) node() []netip.Addr {
	if k.own.at == k.version && k.own.addrs != nil {
		return k.own.addrs
	}
	addrs := slices.Clone(k.nodeAddrs)
	if n, ok := k.world.Node(k.Node); ok {
		addrs = append(addrs, n.Addresses...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	k.own = ownAddrs{at: k.version, addrs: slices.Compact(addrs)}
	return k.own.addrs
}

// OwnAddrs are the node's at a version.
type ownAddrs struct {
	at    uint64
	addrs []netip.Addr
}

// sameAddrs reports whether two lists hold the same addresses in any order.
func sameAddrs(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
