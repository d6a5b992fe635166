package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Counts returns how many attachments are in each state.
func (k *Keeper) Counts() map[api.State]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := map[api.State]int{}
	for _, a := range k.attachments {
		n[a.shown().State]++
	}
	return n
}

// Source says what the source has delivered, and what of it can't be honoured.
func (k *Keeper) Source() (objects map[string]int, synced time.Time, problems []api.Problem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.objects, k.synced, slices.Concat(k.problems, k.refusedWishes())
}

// sorted returns the attachments in the order people read them. k.mu is held.
func (k *Keeper) sorted() []*attachment {
	var as []*attachment
	for _, a := range k.attachments {
		as = append(as, a)
	}
	slices.SortFunc(as, func(a, b *attachment) int {
		return cmp.Or(
			cmp.Compare(a.record.Namespace, b.record.Namespace),
			cmp.Compare(a.record.Name, b.record.Name),
			cmp.Compare(a.record.ContainerID, b.record.ContainerID),
			cmp.Compare(a.record.Interface, b.record.Interface))
	})
	return as
}

// Pods lists the attachments.
func (k *Keeper) Pods() []api.PodSummary {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := []api.PodSummary{}
	for _, a := range k.sorted() {
		list = append(list, api.PodSummary{
			Attachment: a.record.Attachment,
			Isolation:  a.isolation(),
			Audit:      a.audited(),
			Policies:   len(k.policy().Selecting(k.podOf(k.policy(), a))),
			Status:     a.shown(),
		})
	}
	return list
}

// Audited returns how many attachments have NetworkPolicies that only log.
func (k *Keeper) Audited() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, a := range k.attachments {
		if a.audited() {
			n++
		}
	}
	return n
}

// audited reports whether the rules that stand are.
func (a *attachment) audited() bool { return a.known != nil && a.known.Rules.Audit }

// isolation is that of the rules that stand.
func (a *attachment) isolation() api.Isolation {
	if a.known == nil {
		return api.Isolation{}
	}
	rs := a.known.Rules
	return api.Isolation{Ingress: rs.Isolated(ruleset.Ingress), Egress: rs.Isolated(ruleset.Egress)}
}

// Policies lists the policies, and which pods of this node each selects.
func (k *Keeper) Policies() []api.PolicySummary {
	k.mu.Lock()
	defer k.mu.Unlock()
	selected := map[ruleset.Ref][]string{}
	for _, a := range k.sorted() {
		for _, s := range k.policy().Selecting(k.podOf(k.policy(), a)) {
			if pods := selected[s.Policy]; !slices.Contains(pods, a.record.Pod()) {
				selected[s.Policy] = append(pods, a.record.Pod())
			}
		}
	}
	list := []api.PolicySummary{}
	for p := range k.world.Policies() {
		list = append(list, api.PolicySummary{
			Ref: p.Ref, Ingress: p.Ingress.Applies, Egress: p.Egress.Applies,
			Pods: append([]string{}, selected[p.Ref]...), Problem: p.Broken,
		})
	}
	slices.SortFunc(list, func(a, b api.PolicySummary) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// Explain says what becomes of a flow.
func (k *Keeper) Explain(req api.ExplainRequest) (api.Explanation, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.notSynced(); err != nil {
		return api.Explanation{}, err
	}
	return explain.Explain(k.policy(), req, k.knowing())
}

// Inspect returns everything about the attachments that req names. It reads the
// kernel, so it blocks for a few milliseconds each.
func (k *Keeper) Inspect(req api.InspectRequest) ([]api.Inspection, error) {
	found := k.find(req)
	if len(found) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "pod %s: not attached on this node; `policyctl get pods` lists those that are", req.Pod)
	}
	var list []api.Inspection
	for _, a := range found {
		list = append(list, k.inspect(a))
	}
	return list, nil
}

func (k *Keeper) find(req api.InspectRequest) []*attachment {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found []*attachment
	for _, a := range k.sorted() {
		named := a.record.Pod() == req.Pod || (req.Pod != "" && strings.HasPrefix(a.record.ContainerID, req.Pod))
		if named && (req.Interface == "" || req.Interface == a.record.Interface) {
			found = append(found, a)
		}
	}
	return found
}

func (k *Keeper) inspect(a *attachment) api.Inspection {
	k.mu.Lock()
	in := api.Inspection{Attachment: a.record.Attachment, Isolation: a.isolation(), Audit: a.audited(), Status: a.shown(),
		Policies: []api.SelectingPolicy{}, Rules: []api.RuleView{}, Dropped: []api.DropView{}}
	w := k.policy()
	pod := k.podOf(w, a)
	in.Labels = pod.Labels
	for _, s := range w.Selecting(pod) {
		in.Policies = append(in.Policies, selecting(s))
	}
	k.mu.Unlock()
	k.inspectKernel(a, &in)
	return in
}

// inspectKernel adds to in what the kernel holds.
func (k *Keeper) inspectKernel(a *attachment, in *api.Inspection) {
	in.Kernel = api.KernelView{Table: "inet " + ruleset.TableName}
	netns, err := k.open(a)
	if err != nil {
		in.Kernel.Error = err.Error()
		return
	}
	defer netns.Close()
	diffs, generation, known, err := k.compare(a, netns)
	in.Kernel.Generation, in.Kernel.Differences, in.Kernel.InSync = generation, diffs, err == nil && len(diffs) == 0
	if err != nil {
		in.Kernel.Error = err.Error()
	}
	if known == nil {
		return
	}
	counts, err := k.Kernel.Counters(int(netns.Fd()))
	if err != nil {
		in.Kernel.Error = err.Error()
	}
	in.Rules, in.Dropped = rulesOf(a.record.Interface, known.Rules, counts)
}

func selecting(s policy.Selection) api.SelectingPolicy {
	return api.SelectingPolicy{Ref: s.Policy, Ingress: s.Ingress, Egress: s.Egress, Selector: s.Selector, Problem: s.Broken}
}

// errNotKnown says that there is nothing to compare the kernel with.
var errNotKnown = errors.New("what the kernel holds is not known")

// compare returns the differences between what an attachment's namespace holds
// and what it should, and what that is; nothing is written meanwhile.
func (k *Keeper) compare(a *attachment, netns *os.File) (diffs []string, generation uint32, known *nft.Known, err error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	k.mu.Lock()
	known = a.known
	k.mu.Unlock()
	if known == nil {
		return nil, 0, nil, errNotKnown
	}
	diffs, generation, err = k.Kernel.Check(int(netns.Fd()), a.record.Interface, *known)
	return diffs, generation, known, err
}

// Check compares an attachment's rules in the kernel with those that should be
// there. netns is its namespace, or nil to open it by its path.
func (k *Keeper) Check(key api.Key, netns *os.File) error {
	k.mu.Lock()
	a := k.attachments[key]
	var status api.AttachmentStatus
	if a != nil {
		status = a.status
	}
	k.mu.Unlock()
	switch {
	case a == nil:
		return api.Errorf(api.CodeNotFound, "attachment %s: podwalld does not know it", key)
	case status.State != api.StateEnforced:
		return api.Errorf(api.CodeUnavailable, "attachment %s: %s: %s", key, status.State, status.Message)
	}
	if netns == nil {
		f, err := k.open(a)
		if err != nil {
			return fmt.Errorf("check %s: %w", key, err)
		}
		defer f.Close()
		netns = f
	}
	diffs, _, _, err := k.compare(a, netns)
	switch {
	case errors.Is(err, errNotKnown):
		return api.Errorf(api.CodeUnavailable, "attachment %s: %v", key, err)
	case err != nil:
		return fmt.Errorf("check %s: %w", key, err)
	case len(diffs) > 0:
		return api.Errorf(api.CodeInternal, "attachment %s: the kernel does not hold its rules: %s", key, strings.Join(diffs, "; "))
	}
	return nil
}
