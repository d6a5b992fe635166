package reconcile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/internal/policy"
)

// Locals say how this node knows pods better than the source does: pods attached
// here have the addresses that ADD gave them, no other pod has those, and attached
// pods that the source does not know exist too. They hold what the source says of
// such pods, and the World what is true of them.
type locals struct {
	of     map[policy.Name][]*attachment // by their pod
	at     map[netip.Addr][]*attachment
	listed map[policy.Name]policy.Pod    // the source's pods that the World has otherwise
	beyond map[policy.Name][]policy.Name // the World's pods that the source does not list, by the attachments' pod
}

func newLocals() locals {
	return locals{
		of:     map[policy.Name][]*attachment{},
		at:     map[netip.Addr][]*attachment{},
		listed: map[policy.Name]policy.Pod{},
		beyond: map[policy.Name][]policy.Name{},
	}
}

func nameOf(p policy.Pod) policy.Name { return policy.Name{Namespace: p.Namespace, Name: p.Name} }

// taken reports whether a is an attachment's.
func (l *locals) taken(a netip.Addr) bool { return len(l.at[a]) > 0 }

// concern reports whether p is not in the World as the source lists it.
func (l *locals) concern(p policy.Pod) bool {
	return len(l.of[nameOf(p)]) > 0 || slices.ContainsFunc(p.Addresses, l.taken)
}

// attach makes a one of the Keeper's attachments, in place of the one of its key.
// k.mu is held.
func (k *Keeper) attach(a *attachment) {
	if old := k.attachments[a.record.Key]; old != nil {
		k.detach(old)
	}
	k.attachments[a.record.Key] = a
	l := &k.locals
	pods := k.touched(a)
	l.of[a.pod()] = append(l.of[a.pod()], a)
	for _, addr := range a.record.Addresses {
		l.at[addr] = append(l.at[addr], a)
	}
	k.lay(pods...)
}

// detach undoes attach. k.mu is held.
func (k *Keeper) detach(a *attachment) {
	if k.attachments[a.record.Key] != a {
		return
	}
	delete(k.attachments, a.record.Key)
	l := &k.locals
	pods := k.touched(a)
	remove(l.of, a.pod(), a)
	for _, addr := range a.record.Addresses {
		remove(l.at, addr, a)
	}
	k.lay(pods...)
}

func remove[K comparable](m map[K][]*attachment, key K, a *attachment) {
	list := slices.DeleteFunc(m[key], func(b *attachment) bool { return b == a })
	if m[key] = list; len(list) == 0 {
		delete(m, key)
	}
}

// touched returns the pods that may be others in the World once a has come or
// gone, and sees to it that what the source says of them is at hand. k.mu is held.
func (k *Keeper) touched(a *attachment) []policy.Name {
	l := &k.locals
	pods := []policy.Name{a.pod()}
	for _, addr := range a.record.Addresses {
		for _, b := range l.at[addr] {
			pods = append(pods, b.pod())
		}
		for _, p := range k.world.PodsAt(addr) {
			pods = append(pods, nameOf(p))
		}
		for name, p := range l.listed {
			if slices.Contains(p.Addresses, addr) {
				pods = append(pods, name)
			}
		}
	}
	pods = slices.DeleteFunc(pods, l.stranger)
	for _, name := range pods {
		if _, listed := l.listed[name]; !listed && !slices.Contains(l.beyond[name], name) {
			if p, ok := k.world.Pod(name.Namespace, name.Name); ok {
				l.listed[name] = p
			}
		}
	}
	return pods
}

// stranger reports whether the World has a pod of this name only for attachments
// whose pod has another name.
func (l *locals) stranger(name policy.Name) bool {
	for of, names := range l.beyond {
		if of != name && slices.Contains(names, name) {
			return true
		}
	}
	return false
}

// learn takes in what the source says of pods, which the World has been told, and
// puts right what this node knows better. k.mu is held.
func (k *Keeper) learn(c policy.Change) {
	l := &k.locals
	var pods []policy.Name
	for _, p := range c.Set.Pods {
		name := nameOf(p)
		if _, listed := l.listed[name]; listed || l.concern(p) {
			l.listed[name] = p
			pods = append(pods, name)
		}
	}
	for _, name := range c.Gone.Pods {
		if _, listed := l.listed[name]; listed || len(l.of[name]) > 0 {
			delete(l.listed, name)
			pods = append(pods, name)
		}
	}
	k.lay(pods...)
}

// lay makes these pods in the World what they are by the source and the
// attachments. k.mu is held.
func (k *Keeper) lay(pods ...policy.Name) {
	l := &k.locals
	slices.SortFunc(pods, func(a, b policy.Name) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var c policy.Change
	for _, name := range slices.Compact(pods) {
		k.layOne(&c, name)
	}
	k.world.Apply(c)
	for _, name := range pods {
		if p, ok := l.listed[name]; ok && !l.concern(p) {
			delete(l.listed, name)
		}
	}
}

// layOne adds to c what makes one pod, and those beside it, what they are.
func (k *Keeper) layOne(c *policy.Change, name policy.Name) {
	l := &k.locals
	var names []policy.Name
	p, listed := l.listed[name]
	mine, others := split(l.of[name], p.UID)
	switch {
	case !listed:
		others = l.of[name]
	case len(mine) > 0:
		p.Addresses, p.Node, p.HostNetwork = l.held(mine), k.Node, false
	default:
		p.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), l.taken)
	}
	if listed {
		c.Set.Pods = append(c.Set.Pods, p)
	}
	for _, q := range k.strangers(slices.Clone(others), listed) {
		c.Set.Pods, names = append(c.Set.Pods, q), append(names, nameOf(q))
	}
	for _, old := range l.beyond[name] {
		if !slices.Contains(names, old) && !(listed && old == name) {
			c.Gone.Pods = append(c.Gone.Pods, old)
		}
	}
	if l.beyond[name] = names; len(names) == 0 {
		delete(l.beyond, name)
	}
}

// strangers returns the pods of attachments that share a name which the source
// does not know, or knows as another pod's: one for each UID. At most one of
// them may bear the name; the others get one that no pod can have.
func (k *Keeper) strangers(as []*attachment, nameTaken bool) []policy.Pod {
	slices.SortFunc(as, func(a, b *attachment) int { return cmp.Compare(a.record.UID, b.record.UID) })
	var pods []policy.Pod
	for len(as) > 0 {
		uid := as[0].record.UID
		end := slices.IndexFunc(as, func(a *attachment) bool { return a.record.UID != uid })
		if end < 0 {
			end = len(as)
		}
		p := k.unlisted(as[0])
		p.Addresses = k.locals.held(as[:end])
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

// held returns the addresses that the attachments hold, each once. Two have one
// on the same network only while the DEL of the older is late; the newer holds it
// then.
func (l *locals) held(as []*attachment) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range as {
		for _, addr := range a.record.Addresses {
			if !slices.ContainsFunc(l.at[addr], func(b *attachment) bool { return b.record.Network == a.record.Network && a.olderThan(b) }) {
				addrs = append(addrs, addr)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

func (a *attachment) olderThan(b *attachment) bool {
	return cmp.Or(a.record.AddedAt.Compare(b.record.AddedAt),
		cmp.Compare(a.record.ContainerID, b.record.ContainerID),
		cmp.Compare(a.record.Interface, b.record.Interface)) < 0
}
