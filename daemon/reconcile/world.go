package reconcile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A podID names a pod as manifests do. The UID may be empty on either side.
type podID struct{ namespace, name string }

func (a *attachment) pod() podID {
	if a.record.Name == "" {
		// Nobody said whose it is: a pod of its own, which no manifest can be.
		return podID{a.record.Namespace, a.record.Key.String()}
	}
	return podID{a.record.Namespace, a.record.Name}
}

// compile returns a's rule set at the present version, and notes what it does not
// keep. k.mu is held.
func (k *Keeper) compile(a *attachment) ruleset.RuleSet {
	w := k.policy()
	pod := k.podOf(w, a)
	return k.bounded(a, pod, k.logged(w, pod, w.Compile(policy.Target{
		Pod:                pod,
		Addresses:          a.record.Addresses,
		Node:               k.node(w),
		NodeEgressByPolicy: k.nodeEgressByPolicy,
		Adopted:            a.record.Adopted,
		RawSockets:         a.record.RawSockets || k.protection.honours(pod),
		Owned:              k.protection.owns(pod),
	})))
}

// policy returns the world that rule sets are compiled from. k.mu is held.
func (k *Keeper) policy() *policy.World {
	if k.compiled == nil || k.compiledAt != k.version {
		s := k.world.Snapshot
		s.Pods = k.pods()
		k.compiled, k.compiledAt = policy.New(s), k.version
	}
	return k.compiled
}

// podOf returns the pod that a belongs to.
func (k *Keeper) podOf(w *policy.World, a *attachment) policy.Pod {
	id := a.pod()
	if p, ok := w.Pod(id.namespace, strangerName(id.name, a.record.UID)); ok {
		return p
	}
	if p, ok := w.Pod(id.namespace, id.name); ok && sameUID(p.UID, a.record.UID) {
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
	return policy.Pod{Namespace: id.namespace, Name: id.name, UID: a.record.UID, Node: k.Node, Addresses: a.record.Addresses}
}

// sameUID reports whether two UIDs can be of one pod: StatefulSets give a new
// pod its predecessor's name, so a name alone is not enough where both are known.
func sameUID(a, b string) bool { return a == "" || b == "" || a == b }

// node returns the addresses of this node: those it has, and those its Node
// object says it has.
func (k *Keeper) node(w *policy.World) []netip.Addr {
	addrs := slices.Clone(k.nodeAddrs)
	if n, ok := w.Node(k.Node); ok {
		addrs = append(addrs, n.Addresses...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// pods returns the source's pods as this node knows better: pods attached here
// have the addresses that ADD gave them, no other pod has those, and attached
// pods that the source does not know exist too.
func (k *Keeper) pods() []policy.Pod {
	local := map[podID][]*attachment{}
	taken := map[netip.Addr]bool{}
	for _, a := range k.attachments {
		local[a.pod()] = append(local[a.pod()], a)
		for _, addr := range a.record.Addresses {
			taken[addr] = true
		}
	}
	holders := k.holders()
	pods := make([]policy.Pod, 0, len(k.world.Pods)+len(local))
	for _, p := range k.world.Pods {
		id := podID{p.Namespace, p.Name}
		mine, others := split(local[id], p.UID)
		switch {
		case len(mine) > 0:
			p.Addresses, p.Node, p.HostNetwork = holders.of(mine), k.Node, false
			local[id] = others
		case slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return taken[a] }):
			p.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), func(a netip.Addr) bool { return taken[a] })
		}
		pods = append(pods, p)
	}
	named := map[podID]bool{}
	for _, p := range k.world.Pods {
		named[podID{p.Namespace, p.Name}] = true
	}
	for id, as := range local {
		pods = append(pods, k.strangers(as, named[id], holders)...)
	}
	return pods
}

// strangers returns the pods of attachments that share a name which the source
// does not know, or knows as another pod's: one for each UID. At most one of
// them may bear the name; the others get one that no pod can have.
func (k *Keeper) strangers(as []*attachment, nameTaken bool, h holders) []policy.Pod {
	slices.SortFunc(as, func(a, b *attachment) int { return cmp.Compare(a.record.UID, b.record.UID) })
	var pods []policy.Pod
	for len(as) > 0 {
		uid := as[0].record.UID
		end := slices.IndexFunc(as, func(a *attachment) bool { return a.record.UID != uid })
		if end < 0 {
			end = len(as)
		}
		p := k.unlisted(as[0])
		p.Addresses = h.of(as[:end])
		if nameTaken {
			p.Name = strangerName(p.Name, uid)
		}
		pods, as, nameTaken = append(pods, p), as[end:], true
	}
	return pods
}

// split divides attachments into those of the pod with this UID and the others.
func split(as []*attachment, uid string) (mine, others []*attachment) {
	for _, a := range as {
		if sameUID(a.record.UID, uid) {
			mine = append(mine, a)
		} else {
			others = append(others, a)
		}
	}
	return mine, others
}

// Holders say whose an address is on a network. Two attachments have one there
// only while the DEL of the older is late; the newer's pod has it then.
type holders map[place]*attachment

type place struct {
	network string
	addr    netip.Addr
}

// holders returns who holds the attachments' addresses. k.mu is held.
func (k *Keeper) holders() holders {
	h := holders{}
	for _, a := range k.attachments {
		for _, addr := range a.record.Addresses {
			at := place{a.record.Network, addr}
			if b := h[at]; b == nil || b.olderThan(a) {
				h[at] = a
			}
		}
	}
	return h
}

func (a *attachment) olderThan(b *attachment) bool {
	return cmp.Or(a.record.AddedAt.Compare(b.record.AddedAt),
		cmp.Compare(a.record.ContainerID, b.record.ContainerID),
		cmp.Compare(a.record.Interface, b.record.Interface)) < 0
}

// of returns the addresses that the attachments hold, each once.
func (h holders) of(as []*attachment) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range as {
		for _, addr := range a.record.Addresses {
			if h[place{a.record.Network, addr}] == a {
				addrs = append(addrs, addr)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// sameAddrs reports whether two lists hold the same addresses in any order.
func sameAddrs(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
