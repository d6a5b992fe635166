package kubepolicy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podwall/podwall/internal/policy"
)

// Pods and namespaces ask in the same words.
func TestWishes(t *testing.T) {
	tests := []struct {
		name, annotations string
		audit, observe    policy.Wish
		errors            []string
	}{
		{"none", `{}`, policy.NoWish, policy.NoWish, nil},
		{"true", `{podwall.io/audit: "true", podwall.io/observe: "true"}`, policy.Wanted, policy.Wanted, nil},
		{"false", `{podwall.io/audit: "false"}`, policy.Unwanted, policy.NoWish, nil},
		{"another word", `{podwall.io/observe: "yes"}`, policy.NoWish, policy.NoWish,
			[]string{`metadata.annotations[podwall.io/observe]: "yes": want "true", "false", or no such annotation`}},
		{"empty", `{podwall.io/audit: ""}`, policy.NoWish, policy.NoWish,
			[]string{`metadata.annotations[podwall.io/audit]: "": want "true", "false", or no such annotation`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Pod(read[corev1.Pod](t, `{metadata: {namespace: shop, name: web, annotations: `+tt.annotations+`}}`))
			wantFields(t, fields(t, "Pod shop/web", err), tt.errors)
			n, err := Namespace(read[corev1.Namespace](t, `{metadata: {name: shop, annotations: `+tt.annotations+`}}`))
			wantFields(t, fields(t, "Namespace shop", err), tt.errors)
			if p.Audit != tt.audit || p.Observe != tt.observe || n.Audit != tt.audit || n.Observe != tt.observe {
				t.Errorf("pod %d %d, namespace %d %d; want %d %d", p.Audit, p.Observe, n.Audit, n.Observe, tt.audit, tt.observe)
			}
		})
	}
}
