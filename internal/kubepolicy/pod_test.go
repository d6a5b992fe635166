package kubepolicy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podwall/podwall/internal/policy"
)

func TestNetAdmin(t *testing.T) {
	tests := []struct {
		name, spec string
		want       policy.Grant
	}{
		{"without a specification nothing is known", `{}`, policy.GrantUnknown},
		{"nor with init containers alone", `{initContainers: [{name: a}]}`, policy.GrantUnknown},
		{"a container has it not by itself", `{containers: [{name: a}]}`, policy.NotGranted},
		{"nor with an empty context", `{containers: [{securityContext: {capabilities: {}}}]}`, policy.NotGranted},
		{"nor with NET_RAW", `{containers: [{securityContext: {capabilities: {add: [NET_RAW]}}}]}`, policy.NotGranted},
		{"nor unprivileged", `{containers: [{securityContext: {privileged: false}}]}`, policy.NotGranted},
		{"dropping it grants nothing", `{containers: [{securityContext: {capabilities: {drop: [NET_ADMIN]}}}]}`, policy.NotGranted},
		{"NET_ADMIN", `{containers: [{name: a}, {securityContext: {capabilities: {add: [NET_RAW, NET_ADMIN]}}}]}`, policy.Granted},
		{"with its prefix", `{containers: [{securityContext: {capabilities: {add: [CAP_NET_ADMIN]}}}]}`, policy.Granted},
		{"in lower case", `{containers: [{securityContext: {capabilities: {add: [net_admin]}}}]}`, policy.Granted},
		{"ALL, though it is dropped too", `{containers: [{securityContext: {capabilities: {add: [ALL], drop: [NET_ADMIN]}}}]}`, policy.Granted},
		{"privileged", `{containers: [{securityContext: {privileged: true}}]}`, policy.Granted},
		{"an init container's", `{containers: [{name: a}], initContainers: [{securityContext: {capabilities: {add: [NET_ADMIN]}}}]}`, policy.Granted},
		{"an ephemeral container's", `{containers: [{name: a}], ephemeralContainers: [{securityContext: {capabilities: {add: [NET_ADMIN]}}}]}`, policy.Granted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Pod(read[corev1.Pod](t, `{metadata: {namespace: shop, name: web}, spec: `+tt.spec+`}`))
			if err != nil || p.NetAdmin != tt.want {
				t.Errorf("NetAdmin = %d, %v; want %d", p.NetAdmin, err, tt.want)
			}
		})
	}
}

func TestRawSocketsAnnotation(t *testing.T) {
	const field = "metadata.annotations[podwall.io/raw-sockets]: "
	tests := []struct {
		name, annotations string
		want              bool
		errors            []string
	}{
		{"none", `{}`, false, nil},
		{"another's", `{raw-sockets: allow, podwall.io/x: allow}`, false, nil},
		{"allow", `{podwall.io/raw-sockets: allow}`, true, nil},
		{"deny is what holds without", `{podwall.io/raw-sockets: deny}`, false, []string{field + `"deny": want allow`}},
		{"in capitals", `{podwall.io/raw-sockets: Allow}`, false, []string{field + `"Allow": want allow`}},
		{"empty", `{podwall.io/raw-sockets: ""}`, false, []string{field + `"": want allow`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Pod(read[corev1.Pod](t, `{metadata: {namespace: shop, name: web, annotations: `+tt.annotations+`}}`))
			wantFields(t, fields(t, "Pod shop/web", err), tt.errors)
			if p.RawSockets != tt.want {
				t.Errorf("RawSockets = %v, want %v", p.RawSockets, tt.want)
			}
		})
	}
}

func TestRuntimeClass(t *testing.T) {
	for text, want := range map[string]string{`{}`: "", `{runtimeClassName: kata-qemu}`: "kata-qemu"} {
		p, err := Pod(read[corev1.Pod](t, `{metadata: {name: web}, spec: `+text+`}`))
		if err != nil || p.RuntimeClass != want {
			t.Errorf("%s: runtime class %q, %v; want %q", text, p.RuntimeClass, err, want)
		}
	}
}

// The runtime, and so ADD, knows a static pod by its manifest's hash; the API
// server by its mirror's UID.
func TestStaticPod(t *testing.T) {
	for annotations, want := range map[string]string{
		`{}`: "a", `{kubernetes.io/config.hash: b}`: "a", `{kubernetes.io/config.mirror: b, kubernetes.io/config.hash: b}`: "b",
	} {
		p, err := Pod(read[corev1.Pod](t, `{metadata: {name: web, uid: a, annotations: `+annotations+`}}`))
		if err != nil || p.UID != want {
			t.Errorf("with annotations %s: UID %q, %v; want %q", annotations, p.UID, err, want)
		}
	}
}
