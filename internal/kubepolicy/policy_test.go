package kubepolicy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	netv1 "k8s.io/api/networking/v1"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// fields returns "field: cause" of every FieldError in err and demands that it
// is about object.
func fields(t *testing.T, object string, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %T is not joined: %v", err, err)
	}
	var list []string
	for _, e := range joined.Unwrap() {
		var fe *FieldError
		if !errors.As(e, &fe) {
			t.Fatalf("error %T is no FieldError: %v", e, e)
		}
		if fe.Object != object {
			t.Errorf("object of %v is %q, want %q", e, fe.Object, object)
		}
		list = append(list, fe.Field+": "+fe.Err.Error())
	}
	return list
}

// wantFields compares errors with the beginnings of what they should say.
func wantFields(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("errors:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestBrokenPolicies(t *testing.T) {
	tests := []struct {
		name string
		spec string
		want []string
	}{
		{"unknown operator", `{podSelector: {matchExpressions: [{key: app, operator: Like, values: [a]}]}}`,
			[]string{`spec.podSelector.matchExpressions[0].operator: "Like": want In, NotIn, Exists or DoesNotExist`}},
		{"In without values", `{podSelector: {matchExpressions: [{key: app, operator: In}]}}`,
			[]string{`spec.podSelector.matchExpressions[0].values: In needs at least one value`}},
		{"Exists with values", `{podSelector: {matchExpressions: [{key: app, operator: Exists, values: [a]}]}}`,
			[]string{`spec.podSelector.matchExpressions[0].values: Exists takes no values`}},
		{"bad label key", `{podSelector: {matchLabels: {"a b": c}}}`, []string{`spec.podSelector.matchLabels: "a b": `}},
		{"bad label value", `{podSelector: {matchLabels: {app: "a b"}}}`, []string{`spec.podSelector.matchLabels: "a b": `}},
		{"value of 64 characters", `{podSelector: {matchLabels: {app: ` + strings.Repeat("a", 64) + `}}}`, []string{`spec.podSelector.matchLabels: "aaa`}},
		{"unknown policyType", `{podSelector: {}, policyTypes: [Ingress, Sideways]}`, []string{`spec.policyTypes[1]: "Sideways": want Ingress or Egress`}},
		{"CIDR without mask", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}`,
			[]string{`spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.1": no '/'`}},
		{"CIDR with a leading zero", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}`, []string{`spec.ingress[0].from[0].ipBlock.cidr: "010.0.0.0/8": `}},
		{"missing CIDR", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ""}}]}]}`, []string{`spec.ingress[0].from[0].ipBlock.cidr: "": `}},
		{"exception outside", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16]}}]}]}`,
			[]string{`spec.egress[0].to[0].ipBlock.except[1]: 11.0.0.0/16 is not inside 10.0.0.0/8`}},
		{"exception of the other family", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ["fd00::/16"]}}]}]}`,
			[]string{`spec.egress[0].to[0].ipBlock.except[0]: fd00::/16 is not inside 10.0.0.0/8`}},
		{"exception wider than the block", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.0.0.0/8]}}]}]}`,
			[]string{`spec.egress[0].to[0].ipBlock.except[0]: 10.0.0.0/8 is not inside 10.1.0.0/16`}},
		{"block beside a selector", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}`,
			[]string{`spec.ingress[0].from[0]: ipBlock together with a selector: write two peers`}},
		{"empty peer", `{podSelector: {}, ingress: [{from: [{}]}]}`, []string{`spec.ingress[0].from[0]: empty: want podSelector, namespaceSelector or ipBlock`}},
		{"port 0", `{podSelector: {}, ingress: [{ports: [{port: 0}]}]}`, []string{`spec.ingress[0].ports[0].port: 0: want 1 to 65535`}},
		{"port 65536", `{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}`, []string{`spec.ingress[0].ports[0].port: 65536: want 1 to 65535`}},
		{"endPort below port", `{podSelector: {}, ingress: [{ports: [{port: 9, endPort: 8}]}]}`, []string{`spec.ingress[0].ports[0].endPort: 8 is less than port 9`}},
		{"endPort without port", `{podSelector: {}, ingress: [{ports: [{endPort: 8}]}]}`, []string{`spec.ingress[0].ports[0].endPort: endPort without port`}},
		{"endPort of a named port", `{podSelector: {}, ingress: [{ports: [{port: http, endPort: 8}]}]}`, []string{`spec.ingress[0].ports[0].endPort: endPort together with the named port "http"`}},
		{"number in quotes", `{podSelector: {}, ingress: [{ports: [{port: "80"}]}]}`, []string{`spec.ingress[0].ports[0].port: "80": `}},
		{"port name of 16 characters", `{podSelector: {}, ingress: [{ports: [{port: abcdefghijklmnop}]}]}`, []string{`spec.ingress[0].ports[0].port: "abcdefghijklmnop": `}},
		{"unknown protocol", `{podSelector: {}, ingress: [{ports: [{protocol: tcp}]}]}`, []string{`spec.ingress[0].ports[0].protocol: "tcp": want TCP, UDP or SCTP`}},
		{"everything at once", `{podSelector: {}, ingress: [{ports: [{port: 0}]}, {from: [{}]}], egress: [{to: [{ipBlock: {cidr: x}}]}]}`,
			[]string{`spec.ingress[0].ports[0].port: `, `spec.ingress[1].from[0]: `, `spec.egress[0].to[0].ipBlock.cidr: `}},
		{"error in a direction that doesn't count", `{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{}]}]}`, []string{`spec.ingress[0].from[0]: `}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Policy(read[netv1.NetworkPolicy](t, "metadata: {namespace: shop, name: api}\nspec: "+tt.spec))
			wantFields(t, fields(t, "NetworkPolicy shop/api", err), tt.want)
			if p.Broken == "" || strings.Contains(p.Broken, "shop/api") || strings.Contains(p.Broken, "\n") {
				t.Errorf("Broken is %q, want one line about fields", p.Broken)
			}
			if len(p.Ingress.Rules)+len(p.Egress.Rules) > 0 {
				t.Errorf("broken policy has rules: %+v", p)
			}
		})
	}
}

// What a broken policy isolates is what its sound parts say.
func TestBrokenPolicyIsolates(t *testing.T) {
	const bad = `ingress: [{ports: [{port: 0}]}]`
	tests := []struct {
		name            string
		spec            string
		ingress, egress bool
		others          bool // isolates also pods that it seems not to select
	}{
		{"a bad rule isolates the direction that is meant", `{podSelector: {matchLabels: {app: api}}, ` + bad + `}`, true, false, false},
		{"a bad rule in a policy for egress isolates egress", `{podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], ` + bad + `}`, false, true, false},
		{"bad policyTypes isolate both ways", `{podSelector: {matchLabels: {app: api}}, policyTypes: [ingress]}`, true, true, false},
		{"a bad podSelector isolates the namespace", `{podSelector: {matchLabels: {app: "?"}}, ingress: [{}]}`, true, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Policy(read[netv1.NetworkPolicy](t, "metadata: {namespace: shop, name: api}\nspec: "+tt.spec))
			if err == nil {
				t.Fatal("no error")
			}
			s := shop(t)
			// A policy that opens everything can't make up for one that is broken,
			// nor be stopped by it, save where both select.
			s.Policies = []policy.Policy{p}
			w := policy.New(s)
			for _, pod := range s.Pods {
				rs := w.Compile(policy.Target{Pod: pod})
				meant := pod.Namespace == "shop" && !pod.HostNetwork && (pod.Name == "api" || tt.others)
				if rs.Isolated(ruleset.Ingress) != (meant && tt.ingress) || rs.Isolated(ruleset.Egress) != (meant && tt.egress) {
					t.Errorf("%s/%s: isolated ingress %t, egress %t", pod.Namespace, pod.Name, rs.Isolated(ruleset.Ingress), rs.Isolated(ruleset.Egress))
				}
			}
		})
	}
}

// E15: one invalid policy takes nothing from the others.
func TestBrokenPolicyStopsNoOther(t *testing.T) {
	broken, err := Policy(read[netv1.NetworkPolicy](t, `{metadata: {namespace: shop, name: a}, spec: {podSelector: {}, ingress: [{ports: [{port: 0}]}]}}`))
	if err == nil {
		t.Fatal("no error")
	}
	sound, err := Policy(read[netv1.NetworkPolicy](t, `{metadata: {namespace: shop, name: b}, spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	s := shop(t)
	s.Policies = []policy.Policy{broken, sound}
	rs := policy.New(s).Compile(policy.Target{Pod: s.Pods[0]})
	expect(t, rs, ruleset.Accept, "in 10.0.0.1 TCP 80")
	expect(t, rs, ruleset.Drop, "in 10.0.0.1 TCP 81")
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 300)
	tests := []struct {
		name, namespace, policy string
		object                  string
		want                    []string
	}{
		{"no name", "shop", "", "NetworkPolicy shop/", []string{"metadata.name: missing"}},
		{"300 characters", "shop", long, "NetworkPolicy shop/" + long, []string{`metadata.name: "aaaa`}},
		{"a terminal's commands are quoted", "shop", "a\x1b[2Jb", `NetworkPolicy shop/"a\x1b[2Jb"`, []string{`metadata.name: "a\x1b[2Jb": `}},
		{"capitals", "Shop", "Api", "NetworkPolicy Shop/Api", []string{`metadata.namespace: "Shop": `, `metadata.name: "Api": `}},
		{"a namespace is one label", "a.b", "a.b", "NetworkPolicy a.b/a.b", []string{`metadata.namespace: "a.b": `}},
		{"no namespace is the default one", "", "api", "NetworkPolicy default/api", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var np netv1.NetworkPolicy
			np.Namespace, np.Name = tt.namespace, tt.policy
			np.Spec.Ingress = []netv1.NetworkPolicyIngressRule{{}}
			p, err := Policy(&np)
			wantFields(t, fields(t, tt.object, err), tt.want)
			if (p.Broken == "") != (err == nil) || !p.Ingress.Applies || p.Subject.Namespace == "" {
				t.Errorf("policy %+v", p)
			}
		})
	}
}
