package reconcile

import (
	"slices"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/evidence"
	"github.com/podwall/podwall/internal/ruleset"
)

// Evidence returns flows with what the Keeper knows about them: enough of the
// World to judge them again, and the policies wanted.
func (k *Keeper) Evidence(flows api.FlowList, wanted []ruleset.Ref) (evidence.Evidence, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.notSynced(); err != nil {
		return evidence.Evidence{}, err
	}
	at := evidence.Site{Node: k.Node, NodeAddresses: slices.Clone(k.nodeAddrs), NodeEgressByPolicy: k.nodeEgressByPolicy,
		Audits: !k.Kernel.NoLog && slices.Contains(k.protection.Annotations, daemonconf.AnnotationAudit)}
	for _, a := range k.sorted() {
		p := k.podOf(k.policy(), a)
		pod := evidence.Pod{Namespace: p.Namespace, Name: p.Name, Accepts: a.known != nil && a.known.Rules.Log.Accepts}
		if n := len(at.Pods); n > 0 && at.Pods[n-1].Namespace == pod.Namespace && at.Pods[n-1].Name == pod.Name {
			at.Pods[n-1].Accepts = at.Pods[n-1].Accepts && pod.Accepts // on another interface
			continue
		}
		at.Pods = append(at.Pods, pod)
	}
	return evidence.Gather(k.policy(), at, flows, wanted), nil
}
