package kubepolicy

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netv1 "k8s.io/api/networking/v1"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// Whatever a NetworkPolicy holds, it compiles; one that is invalid isolates and
// admits nobody, and says why in words that are safe to print.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"metadata":{"namespace":"shop","name":"api"},"spec":{"podSelector":{},"ingress":[{"ports":[{"port":0}]}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var np netv1.NetworkPolicy
		if json.Unmarshal(data, &np) != nil {
			return
		}
		p, err := Policy(&np)
		checkError(t, err)
		if (err == nil) != (p.Broken == "") {
			t.Fatalf("error is %v but Broken is %q", err, p.Broken)
		}
		s := neighbours(p.Ref.Namespace)
		s.Policies = []policy.Policy{p}
		w := policy.New(s)
		for _, pod := range s.Pods {
			rs := w.Compile(policy.Target{Pod: pod, Addresses: pod.Addresses})
			if len(w.Selecting(pod)) == 0 {
				if rs.Isolated(ruleset.Ingress) || rs.Isolated(ruleset.Egress) {
					t.Fatalf("a pod that is not selected is isolated: %+v", rs)
				}
				continue
			}
			if rs.Isolated(ruleset.Ingress) != p.Ingress.Applies || rs.Isolated(ruleset.Egress) != p.Egress.Applies {
				t.Fatalf("isolation differs from what the policy applies to: %+v, %+v", p, rs)
			}
			if err != nil {
				admitsNobody(t, p, rs, s)
			}
		}
	})
}

// neighbours are pods that a fuzzed policy of that namespace may select.
func neighbours(namespace string) policy.Snapshot {
	var s policy.Snapshot
	for i, labels := range []policy.Labels{nil, {"app": "a"}, {"app": "b", "tier": "a"}} {
		for j, ns := range []string{namespace, "other"} {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(j), byte(i)})
			s.Pods = append(s.Pods, policy.Pod{Namespace: ns, Name: string('a' + rune(i)), Labels: labels, Addresses: []netip.Addr{addr},
				Ports: []policy.NamedPort{{Name: "http", Proto: ruleset.TCP, Port: 80}}})
		}
	}
	return s
}

func admitsNobody(t *testing.T, p policy.Policy, rs ruleset.RuleSet, s policy.Snapshot) {
	t.Helper()
	if len(p.Ingress.Rules)+len(p.Egress.Rules) > 0 || !p.Ingress.Applies && !p.Egress.Applies {
		t.Fatalf("invalid policy has rules, or isolates nothing: %+v", p)
	}
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		for _, peer := range s.Pods {
			if got := rs.Chain(d).Decide(peer.Addresses[0], ruleset.TCP, 80); rs.Isolated(d) && got.Action != ruleset.Drop {
				t.Fatalf("invalid policy admits %v %s: %+v", peer.Addresses, d, got)
			}
		}
	}
}

// Whatever another object holds, what is taken from it is sound.
func FuzzObjects(f *testing.F) {
	f.Add([]byte(`{"metadata":{"namespace":"shop","name":"api"},"status":{"podIP":"10.0.0.1"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s policy.Snapshot
		s.Pods = parsed(t, data, s.Pods, Pod)
		s.Namespaces = parsed[corev1.Namespace](t, data, s.Namespaces, Namespace)
		s.Nodes = parsed[corev1.Node](t, data, s.Nodes, Node)
		s.Services = parsed[corev1.Service](t, data, s.Services, Service)
		s.Slices = parsed[discoveryv1.EndpointSlice](t, data, s.Slices, EndpointSlice)
		for _, p := range s.Pods {
			sound(t, p.Addresses)
			for _, port := range p.Ports {
				if port.Name == "" || port.Port == 0 || !port.Proto.HasPorts() {
					t.Errorf("named port %+v", port)
				}
			}
		}
		for _, svc := range s.Services {
			sound(t, svc.Addresses)
			for _, port := range svc.Ports {
				if port.Port == 0 || !port.Proto.HasPorts() {
					t.Errorf("service port %+v", port)
				}
			}
		}
		w := policy.New(s)
		for _, p := range s.Pods {
			w.Compile(policy.Target{Pod: p, Addresses: p.Addresses})
		}
	})
}

// parsed adds to list what parse makes of data, if data is such an object.
func parsed[K, P any](t *testing.T, data []byte, list []P, parse func(*K) (P, error)) []P {
	var o K
	if json.Unmarshal(data, &o) != nil {
		return list
	}
	p, err := parse(&o)
	checkError(t, err)
	return append(list, p)
}

func sound(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			t.Errorf("address %v", a)
		}
	}
}

// checkError demands FieldErrors that a terminal can't take for commands.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		fe, ok := e.(*FieldError)
		if !ok || fe.Field == "" || fe.Object == "" || fe.Err == nil {
			t.Errorf("error %#v", e)
		}
		if strings.ContainsFunc(e.Error(), unicode.IsControl) {
			t.Errorf("control character in %q", e.Error())
		}
	}
}
