package kubepolicy

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podwall/podwall/internal/policy"
)

// operators are the matchExpressions operators.
var operators = map[metav1.LabelSelectorOperator]policy.Op{
	metav1.LabelSelectorOpIn:           policy.In,
	metav1.LabelSelectorOpNotIn:        policy.NotIn,
	metav1.LabelSelectorOpExists:       policy.Exists,
	metav1.LabelSelectorOpDoesNotExist: policy.DoesNotExist,
}

// selector reads s. An empty selector picks everything; needs are sorted, so
// that selectors which differ only in order are equal.
func (r *reader) selector(field string, s *metav1.LabelSelector) policy.Selector {
	if len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0 {
		return policy.Selector{All: true}
	}
	var needs []policy.Need
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		n := policy.Need{Key: k, Op: policy.In, Values: []string{s.MatchLabels[k]}}
		r.need(field+".matchLabels", field+".matchLabels", n)
		needs = append(needs, n)
	}
	for i, e := range s.MatchExpressions {
		needs = append(needs, r.expression(at(field+".matchExpressions", i), e))
	}
	slices.SortFunc(needs, compareNeeds)
	return policy.Selector{Needs: slices.CompactFunc(needs, func(a, b policy.Need) bool { return compareNeeds(a, b) == 0 })}
}

func compareNeeds(a, b policy.Need) int {
	if c := strings.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	if a.Op != b.Op {
		return int(a.Op) - int(b.Op)
	}
	return slices.Compare(a.Values, b.Values)
}

func (r *reader) expression(field string, e metav1.LabelSelectorRequirement) policy.Need {
	n := policy.Need{Key: e.Key, Op: operators[e.Operator], Values: slices.Compact(slices.Sorted(slices.Values(e.Values)))}
	switch n.Op {
	case policy.Never:
		r.failf(field+".operator", "%q: want In, NotIn, Exists or DoesNotExist", e.Operator)
	case policy.In, policy.NotIn:
		if len(n.Values) == 0 {
			r.failf(field+".values", "%s needs at least one value", e.Operator)
		}
	default:
		if len(n.Values) > 0 {
			r.failf(field+".values", "%s takes no values", e.Operator)
		}
	}
	r.need(field+".key", field+".values", n)
	return n
}

// need checks the spelling of n, whose parts stand in two fields.
func (r *reader) need(keyField, valueField string, n policy.Need) {
	r.name(keyField, n.Key, validation.IsQualifiedName)
	for _, v := range n.Values {
		if v != "" { // a label may be present and empty
			r.name(valueField, v, validation.IsValidLabelValue)
		}
	}
}
