package reconcile

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Protection says what pods may do about their own rules. The zero Protection
// lets them do least.
type Protection struct {
	Tamper daemonconf.TamperProtection
	// Annotations are those by which pods may change their own firewall.
	Annotations []string
	// Sandboxed are patterns of the runtime classes whose pods' traffic does not
	// pass the rules in their namespace, SandboxedPods what becomes of such pods.
	Sandboxed     []string
	SandboxedPods daemonconf.SandboxedPods
}

// SetProtection makes p hold, from the next round on.
func (k *Keeper) SetProtection(p Protection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !reflect.DeepEqual(k.protection, p) {
		k.protection = p
		k.changed()
	}
}

// owns reports whether only podwalld may change pod's tables.
func (p Protection) owns(pod policy.Pod) bool {
	switch p.Tamper {
	case daemonconf.TamperOff:
		return false
	case daemonconf.TamperAuto:
		return pod.NetAdmin != policy.NotGranted
	}
	return true
}

// honours reports whether pod asks to send whole frames, and may.
func (p Protection) honours(pod policy.Pod) bool {
	return pod.RawSockets && slices.Contains(p.Annotations, daemonconf.AnnotationRawSockets)
}

// sandboxed returns the pattern that the pod's runtime class matches, if one
// does.
func (p Protection) sandboxed(pod policy.Pod) (pattern string, ok bool) {
	i := slices.IndexFunc(p.Sandboxed, func(pattern string) bool {
		ok, err := path.Match(pattern, pod.RuntimeClass)
		return ok && err == nil && pod.RuntimeClass != ""
	})
	if i < 0 {
		return "", false
	}
	return p.Sandboxed[i], true
}

// A notice is what an attachment's rules do not keep even while they stand.
type notice struct {
	unprotected bool   // they do not bind the pod at all
	refused     bool   // such a pod is not to start
	text        string // for people; empty if there is nothing to say
}

// bounded returns rs as far as this kernel and this pod's runtime let it hold,
// and notes the rest. k.mu is held.
func (k *Keeper) bounded(a *attachment, pod policy.Pod, rs ruleset.RuleSet) ruleset.RuleSet {
	var n notice
	var texts []string
	if pattern, ok := k.protection.sandboxed(pod); ok {
		n.unprotected, n.refused = true, k.protection.SandboxedPods != daemonconf.SandboxedReport
		texts = append(texts, fmt.Sprintf("its traffic does not pass the rules in its namespace: runtime class %s is one of sandboxedRuntimes (%s)", pod.RuntimeClass, pattern))
	}
	if a.record.Bypass != "" {
		n.unprotected = true
		texts = append(texts, "its traffic does not pass the rules in its namespace: "+a.record.Bypass)
	}
	if pod.RawSockets && !k.protection.honours(pod) && !rs.RawSockets {
		texts = append(texts, "raw sockets stay denied: its annotation is not one of podAnnotations")
	}
	if k.Kernel.NoGuard && len(rs.Guard(a.record.Interface).Blocks) > 0 {
		rs.RawSockets = true
		texts = append(texts, "raw sockets are not stopped: the kernel has no netdev egress hook")
	}
	if rs.Audit {
		texts = append(texts, "audit: what its NetworkPolicies would drop passes, and is logged")
	}
	if k.Kernel.NoOwner && rs.Owned {
		rs.Owned = false
		texts = append(texts, "changes by others are repaired, not prevented: the kernel has no tables with owner and persist")
	}
	n.text = strings.Join(texts, "; ")
	a.notice = n
	return rs
}

// say logs a's notice, once. k.mu is held.
func (k *Keeper) say(a *attachment) {
	if a.said == a.notice.text {
		return
	}
	a.said = a.notice.text
	if a.said == "" {
		k.Log.Info("the rules keep all they promise again", "pod", a.record.Pod(), "attachment", a.record.Key.String())
		return
	}
	k.Log.Warn("the rules do not keep all they promise", "pod", a.record.Pod(), "attachment", a.record.Key.String(), "why", a.said)
}

// shown is a's status as people should see it. k.mu is held.
func (a *attachment) shown() api.AttachmentStatus {
	s := a.status
	if s.State == api.StateEnforced && a.notice.text != "" {
		s.Message = a.notice.text
		if a.notice.unprotected {
			s.State = api.StateUnprotected
		}
	}
	return s
}

// refuse forgets an attachment that is being added and must not start, and says
// why. Again would fail again.
func (k *Keeper) refuse(a *attachment) error {
	k.mu.Lock()
	n := a.notice
	k.mu.Unlock()
	if !n.refused {
		return nil
	}
	if err := k.drop(a); err != nil {
		k.Log.Error("forget an attachment that was not added", "error", err)
	}
	return api.Errorf(api.CodeInvalid, "pod %s is refused, by sandboxedPods: %s", a.record.Pod(), n.text)
}

// refusedWishes are the annotations of attached pods that are not honoured. k.mu
// is held.
func (k *Keeper) refusedWishes() []api.Problem {
	var list []api.Problem
	for _, a := range k.sorted() {
		for _, w := range k.wishes(k.podOf(k.policy(), a)) {
			p := api.Problem{
				Object: "Pod " + a.record.Pod(), Field: "metadata.annotations[podwall.io/" + w.name + "]",
				Message: "not honoured on this node: podAnnotations does not list " + w.name,
			}
			if w.asked && !w.honour && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}
