package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/kubepolicy"
	"github.com/podwall/podwall/internal/policy"
)

const (
	policyKind    = "NetworkPolicy"
	policyVersion = "networking.k8s.io/v1"
)

// selectsPods reports whether raw has a spec.podSelector. Others have kinds of
// this name too, but with other fields; one with this field that is not of
// policyVersion is ours with a slip of the pen.
func selectsPods(raw []byte) bool {
	var v struct {
		Spec struct {
			PodSelector json.RawMessage `json:"podSelector"`
		} `json:"spec"`
	}
	return kjson.UnmarshalCaseSensitivePreserveInts(raw, &v) == nil && v.Spec.PodSelector != nil
}

// readPolicy reads a NetworkPolicy. Whatever is wrong with it, the object is one
// that isolates.
func readPolicy(apiVersion string, raw []byte) (object, []api.Problem) {
	in, err := decodePolicy(apiVersion, raw)
	if err == nil {
		p, err := kubepolicy.Policy(in)
		o := policyObject(p, raw)
		return o, problems(o.String(), err)
	}
	p, unread := kubepolicy.Policy(skeleton(raw))
	p.Broken = oneLine(err)
	p.Ingress.Rules, p.Egress.Rules = nil, nil
	o := policyObject(p, raw)
	return o, append(problems(o.String(), err), problems(o.String(), unread)...)
}

func policyObject(p policy.Policy, raw []byte) object {
	return object{kind: policyKind, namespace: p.Ref.Namespace, name: p.Ref.Name, value: p, raw: raw}
}

// rename gives a NetworkPolicy a name that is not its manifest's.
func (o *object) rename(name string) {
	p := o.value.(policy.Policy)
	p.Ref.Name = name
	o.name, o.value, o.alias = name, p, true
}

// decodePolicy decodes raw strictly: a field that is not known may be one that
// restricts. The status, which older Kubernetes had, says nothing.
func decodePolicy(apiVersion string, raw []byte) (*netv1.NetworkPolicy, error) {
	if apiVersion != policyVersion {
		return nil, &kubepolicy.FieldError{Field: "apiVersion", Err: fmt.Errorf("%s: want %s", orNone(apiVersion), policyVersion)}
	}
	var in struct {
		netv1.NetworkPolicy `json:",inline"`
		Status              json.RawMessage `json:"status"`
	}
	strict, err := kjson.UnmarshalStrict(raw, &in)
	if err == nil {
		err = errors.Join(strict...)
	}
	return &in.NetworkPolicy, err
}

// skeleton is what can be read of a NetworkPolicy that does not decode: its
// name, which pods it selects, all if that can't be read, and its directions,
// both if those can't be read or are not said.
func skeleton(raw []byte) *netv1.NetworkPolicy {
	var in struct {
		Metadata struct {
			Name      json.RawMessage `json:"name"`
			Namespace json.RawMessage `json:"namespace"`
		} `json:"metadata"`
		Spec struct {
			PodSelector json.RawMessage `json:"podSelector"`
			PolicyTypes json.RawMessage `json:"policyTypes"`
		} `json:"spec"`
	}
	_ = kjson.UnmarshalCaseSensitivePreserveInts(raw, &in) // reads what has the right type, wherever it fails
	out := &netv1.NetworkPolicy{}
	out.Name, out.Namespace = word(in.Metadata.Name), word(in.Metadata.Namespace)
	var pods metav1.LabelSelector
	if fits(in.Spec.PodSelector, &pods) {
		out.Spec.PodSelector = pods
	}
	var types []netv1.PolicyType
	if !fits(in.Spec.PolicyTypes, &types) || len(types) == 0 {
		types = []netv1.PolicyType{netv1.PolicyTypeIngress, netv1.PolicyTypeEgress}
	}
	out.Spec.PolicyTypes = types
	return out
}

// fits decodes raw into v, and reports whether it is all there.
func fits(raw []byte, v any) bool {
	strict, err := kjson.UnmarshalStrict(raw, v)
	return err == nil && len(strict) == 0
}

// word is a name as its author meant it, also if YAML took it for a number or a
// truth value.
func word(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if strings.ContainsAny(string(raw), `[{"`) {
		return ""
	}
	return string(raw)
}

func oneLine(err error) string {
	var texts []string
	for _, p := range problems("", err) {
		texts = append(texts, strings.TrimPrefix(p.String(), ": "))
	}
	return strings.Join(texts, "; ")
}
