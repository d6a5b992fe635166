package evidence

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podwall/podwall/internal/policy"
)

// ownLabels are labels that each pod, or each version of its template, has to
// itself: they come from what makes pods, not from who writes policies.
var ownLabels = []string{
	"apps.kubernetes.io/pod-index",
	"batch.kubernetes.io/controller-uid",
	"batch.kubernetes.io/job-completion-index",
	"batch.kubernetes.io/job-name",
	"controller-revision-hash",
	"controller-uid",
	"job-name",
	"pod-template-generation",
	"pod-template-hash",
	"statefulset.kubernetes.io/pod-name",
}

// Shared is what is left of a pod's labels without those of its own: the labels
// of its workload.
func Shared(l policy.Labels) policy.Labels {
	l = maps.Clone(l)
	for _, k := range ownLabels {
		delete(l, k)
	}
	return l
}

// Make is the same text for pods that have the same labels of their workload, and
// for no others.
func Make(l policy.Labels) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(l)) {
		if !slices.Contains(ownLabels, k) {
			b.WriteString(strconv.Quote(k) + "=" + strconv.Quote(l[k]) + ",")
		}
	}
	return b.String()
}

// Workload is the name of what made a pod of this name and these labels, as far
// as they tell: that of the Deployment, the StatefulSet or the DaemonSet.
func Workload(name string, l policy.Labels) string {
	cut := func(s, suffix string) string {
		if t, ok := strings.CutSuffix(s, "-"+suffix); ok && suffix != "" && t != "" {
			return t
		}
		return s
	}
	switch {
	case l["pod-template-hash"] != "":
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		return cut(name, l["pod-template-hash"])
	case l["apps.kubernetes.io/pod-index"] != "":
		return cut(name, l["apps.kubernetes.io/pod-index"])
	case l["statefulset.kubernetes.io/pod-name"] != "", l["controller-revision-hash"] != "", l["job-name"] != "", l["batch.kubernetes.io/job-name"] != "":
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			return name[:i]
		}
	}
	return name
}
