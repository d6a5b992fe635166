package reconcile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Listener hears what the attachments' rules log. Its methods are quick and do
// not call the Keeper, some of whose locks are held.
type Listener interface {
	// Listen says which rules stand for an attachment, in the namespace that netns
	// refers to. It is called again and again, also where nothing has changed.
	Listen(a api.Attachment, revision string, rs ruleset.RuleSet, netns int)
	// Forget says that nothing is written for an attachment any more, and that its
	// namespace must not be kept.
	Forget(key api.Key)
}

// Listen does nothing.
func (deaf) Listen(api.Attachment, string, ruleset.RuleSet, int) {}

// Forget does nothing.
func (deaf) Forget(api.Key) {}

// hear tells the Listener which rules of a stand in the namespace. a.writing is
// held.
func (k *Keeper) hear(a *attachment, netns int) {
	k.mu.Lock()
	known, record, gone := a.known, a.record, a.gone
	k.mu.Unlock()
	if known != nil && !gone {
		k.Listener.Listen(record.Attachment, record.Revision, known.Rules, netns)
	}
}

// hearAgain is hear for whoever writes nothing.
func (k *Keeper) hearAgain(a *attachment, netns int) {
	a.writing.Lock()
	defer a.writing.Unlock()
	k.hear(a, netns)
}

// silence ends the listening for a forgotten attachment, for which nothing is
// written any more, unless its key is another's by now.
func (k *Keeper) silence(a *attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.attachments[a.record.Key] == nil {
		k.Listener.Forget(a.record.Key)
	}
}

// SetLogging says what rules log of packets, from the next round on.
func (k *Keeper) SetLogging(l ruleset.Logging) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.logging != l {
		k.logging = l
		k.changed()
	}
}

// logged returns rs with what it is to log, and audited if the pod or its
// namespace asks for that and may. k.mu is held.
func (k *Keeper) logged(w *policy.World, pod policy.Pod, rs ruleset.RuleSet) ruleset.RuleSet {
	if k.Kernel.NoLog {
		return rs // what can't be logged is not let pass, either
	}
	ns, _ := w.Namespace(pod.Namespace)
	log := k.logging
	if wish := k.protection.grants(daemonconf.AnnotationObserve, pod.Observe.Or(ns.Observe)); wish != policy.NoWish {
		log.Accepts = wish == policy.Wanted
	}
	rs.Audit = k.protection.grants(daemonconf.AnnotationAudit, pod.Audit.Or(ns.Audit)) == policy.Wanted
	if log.Drops || log.Accepts || rs.Audit {
		rs.Log = log
	}
	return rs
}

// grants returns a wish that is permitted, else none.
func (p Protection) grants(annotation string, wish policy.Wish) policy.Wish {
	if slices.Contains(p.Annotations, annotation) {
		return wish
	}
	return policy.NoWish
}

// A wished annotation is one that asks for something.
type wished struct {
	name   string // one of podAnnotations
	asked  bool
	honour bool
}

// wishes are what the annotations of a pod and its namespace ask for. k.mu is
// held.
func (k *Keeper) wishes(pod policy.Pod) []wished {
	ns, _ := k.policy().Namespace(pod.Namespace)
	list := []wished{{name: daemonconf.AnnotationRawSockets, asked: pod.RawSockets}}
	for name, wish := range map[string]policy.Wish{
		daemonconf.AnnotationAudit:   pod.Audit.Or(ns.Audit),
		daemonconf.AnnotationObserve: pod.Observe.Or(ns.Observe),
	} {
		list = append(list, wished{name: name, asked: wish == policy.Wanted})
	}
	for i := range list {
		list[i].honour = slices.Contains(k.protection.Annotations, list[i].name)
	}
	slices.SortFunc(list, func(a, b wished) int { return cmp.Compare(a.name, b.name) })
	return list
}

// End says whose an address is, with labels: a pod's before a Service's before a
// node's. Pods in the host's network are their node.
func (k *Keeper) End(a netip.Addr) api.End {
	a = a.Unmap().WithZone("")
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.policy()
	for _, p := range w.PodsAt(a) {
		if p.HostNetwork {
			return api.End{Address: a, Node: p.Node}
		}
		e := api.End{Address: a, Namespace: p.Namespace, Pod: p.Name, Labels: p.Labels}
		if ns, ok := w.Namespace(p.Namespace); ok {
			e.NamespaceLabels = ns.Labels
		}
		return e
	}
	for _, s := range w.ServicesAt(a) {
		return api.End{Address: a, Namespace: s.Namespace, Service: s.Name}
	}
	if slices.Contains(k.nodeAddrs, a) {
		return api.End{Address: a, Node: k.Node}
	}
	for n := range w.Nodes() {
		if slices.Contains(n.Addresses, a) {
			return api.End{Address: a, Node: n.Name}
		}
	}
	return api.End{Address: a}
}
