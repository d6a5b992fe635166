package kubepolicy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func TestPods(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // addresses, named ports, hostNetwork, done
		errors     []string
	}{
		{"podIPs and podIP name each address once", `status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}`, "[10.0.0.1 fd00::1] [] false false", nil},
		{"podIP alone is enough", `status: {podIP: 10.0.0.1}`, "[10.0.0.1] [] false false", nil},
		{"a pod without address is one", `{}`, "[] [] false false", nil},
		{"IPv4-mapped is IPv4", `status: {podIP: "::ffff:10.0.0.1"}`, "[10.0.0.1] [] false false", nil},
		{"a bad address costs itself", `status: {podIPs: [{ip: 10.0.0.256}, {ip: fd00::1%eth0}, {ip: 10.0.0.1}]}`, "[10.0.0.1] [] false false",
			[]string{`status.podIPs[0].ip: "10.0.0.256": IPv4 field has value >255`, `status.podIPs[1].ip: "fd00::1%eth0": an address with a zone`}},
		{"a failed pod is done", `status: {phase: Failed}`, "[] [] false true", nil},
		{"a succeeded pod is done", `status: {phase: Succeeded}`, "[] [] false true", nil},
		{"a pending pod is not done", `status: {phase: Pending}`, "[] [] false false", nil},
		{"hostNetwork", `spec: {hostNetwork: true}`, "[] [] true false", nil},
		{"ports without name don't count", `spec: {containers: [{ports: [{containerPort: 80}, {name: a, containerPort: 81}]}]}`, "[] [{a TCP 81}] false false", nil},
		{"a sidecar's ports count", `spec: {initContainers: [{restartPolicy: Always, ports: [{name: a, containerPort: 1, protocol: UDP}]}]}`, "[] [{a UDP 1}] false false", nil},
		{"an init container's ports don't", `spec: {initContainers: [{ports: [{name: a, containerPort: 1}]}]}`, "[] [] false false", nil},
		{"a bad port costs itself", `spec: {containers: [{ports: [{name: a, containerPort: 70000}, {name: b, containerPort: 1, protocol: ICMP}, {name: A_, containerPort: 1}, {name: d, containerPort: 2}]}]}`,
			"[] [{d TCP 2}] false false",
			[]string{`spec.containers[0].ports[0].containerPort: 70000: `, `spec.containers[0].ports[1].protocol: "ICMP": `, `spec.containers[0].ports[2].name: "A_": `}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := read[corev1.Pod](t, tt.text)
			o.Namespace, o.Name = "shop", "web"
			p, err := Pod(o)
			wantFields(t, fields(t, "Pod shop/web", err), tt.errors)
			if got := fmt.Sprint(p.Addresses, p.Ports, p.HostNetwork, p.Done); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if p.Namespace != "shop" || p.Name != "web" {
				t.Errorf("pod is %s/%s", p.Namespace, p.Name)
			}
		})
	}
}

func TestServices(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // addresses, ports
		errors     []string
	}{
		{"clusterIPs name the clusterIP once more", `spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd96::1"], ports: [{port: 80}]}`, "[10.96.0.1 fd96::1] [{ TCP 80 0}]", nil},
		{"headless has no address", `spec: {clusterIP: None, clusterIPs: [None], externalIPs: [203.0.113.1], ports: [{port: 80}]}`, "[] []", nil},
		{"ExternalName has no address", `spec: {type: ExternalName, externalName: example.org, externalIPs: [203.0.113.1], ports: [{port: 80}]}`, "[] []", nil},
		{"external addresses are virtual", `spec: {clusterIP: 10.96.0.1, externalIPs: [203.0.113.1]}`, "[10.96.0.1 203.0.113.1] []", nil},
		{"load balancer addresses are virtual", `{spec: {clusterIP: 10.96.0.1}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {hostname: lb.example.org}]}}}`,
			"[10.96.0.1 203.0.113.1 203.0.113.2] []", nil},
		{"those of ipMode Proxy aren't", `{spec: {clusterIP: 10.96.0.1}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: Proxy}]}}}`, "[10.96.0.1] []", nil},
		{"node ports", `spec: {clusterIP: 10.96.0.1, ports: [{name: a, port: 80, nodePort: 30080, protocol: UDP}]}`, "[10.96.0.1] [{a UDP 80 30080}]", nil},
		{"a bad field costs itself", `{spec: {clusterIP: 10.96.0.1, externalIPs: [x], ports: [{name: a, port: 0}, {name: b, port: 1, nodePort: -1}, {name: c, port: 1, protocol: X}, {name: d, port: 2}]}}`,
			"[10.96.0.1] [{d TCP 2 0}]",
			[]string{`spec.externalIPs[0]: "x": `, `spec.ports[0].port: 0: `, `spec.ports[1].nodePort: -1: `, `spec.ports[2].protocol: "X": `}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := read[corev1.Service](t, tt.text)
			o.Namespace, o.Name = "shop", "api"
			s, err := Service(o)
			wantFields(t, fields(t, "Service shop/api", err), tt.errors)
			if got := fmt.Sprint(s.Addresses, s.Ports); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestEndpointSlices(t *testing.T) {
	tests := []struct {
		name, text string
		want       string // service, ports, endpoints
		errors     []string
	}{
		{"its label names the Service", `{metadata: {labels: {kubernetes.io/service-name: api}}, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.1]}]}`,
			"api [{http TCP 80}] [{[10.0.0.1] true}]", nil},
		{"unknown readiness is ready", `endpoints: [{addresses: [10.0.0.1], conditions: {}}]`, " [] [{[10.0.0.1] true}]", nil},
		{"not ready", `endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: true}}]`, " [] [{[10.0.0.1] false}]", nil},
		{"terminating and still serving", `endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]`, " [] [{[10.0.0.1] true}]", nil},
		{"terminating and not serving", `endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: false, terminating: true}}]`, " [] [{[10.0.0.1] false}]", nil},
		{"host names are no endpoints", `{addressType: FQDN, endpoints: [{addresses: [example.org]}]}`, " [] []", nil},
		{"a port without number is none", `ports: [{name: a}, {port: 53, protocol: UDP}]`, " [{ UDP 53}] []", nil},
		{"a bad field costs itself", `{ports: [{port: 0}, {port: 1}], endpoints: [{addresses: [x]}, {addresses: [10.0.0.1]}]}`, " [{ TCP 1}] [{[] true} {[10.0.0.1] true}]",
			[]string{`ports[0].port: 0: `, `endpoints[0].addresses[0]: "x": `}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := read[discoveryv1.EndpointSlice](t, tt.text)
			o.Namespace, o.Name = "shop", "api-1"
			s, err := EndpointSlice(o)
			wantFields(t, fields(t, "EndpointSlice shop/api-1", err), tt.errors)
			if got := fmt.Sprint(s.Service, " ", s.Ports, s.Endpoints); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestNodesAndNamespaces(t *testing.T) {
	n, err := Node(read[corev1.Node](t, `
metadata: {name: n1, labels: {zone: a}}
status:
  addresses:
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 192.168.0.1}
  - {type: InternalIP, address: "fd00::1"}
  - {type: InternalDNS, address: n1.example.org}
  - {type: ExternalIP, address: oops}`))
	wantFields(t, fields(t, "Node n1", err), []string{`status.addresses[4].address: "oops": `})
	if got, want := fmt.Sprint(n), "{n1 map[zone:a] [192.168.0.1 fd00::1]}"; got != want {
		t.Errorf("node %s, want %s", got, want)
	}
	for text, terminating := range map[string]bool{
		`{metadata: {name: shop}}`: false,
		`{metadata: {name: shop, deletionTimestamp: "2026-01-01T00:00:00Z"}}`: true,
		`{metadata: {name: shop}, status: {phase: Terminating}}`:              true,
		`{metadata: {name: shop, labels: {a: b}}, status: {phase: Active}}`:   false,
	} {
		ns, err := Namespace(read[corev1.Namespace](t, text))
		if err != nil || ns.Terminating != terminating || ns.Name != "shop" {
			t.Errorf("%s: %+v, %v", text, ns, err)
		}
	}
}
