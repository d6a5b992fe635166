package main

import (
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podwall/podwall/integration/bench/hub"
	"github.com/podwall/podwall/integration/lab"
)

// localPods is how many pods a node has, as kubelets have it by default.
const localPods = 110

// A cluster is one of a size. Its pods and policies are spread over its
// namespaces; a thousandth of its pods, or a thousand at most, are called by
// everybody and labelled role=peer.
//
// The node's own pods are shop/web-0 to web-109, all under one policy, or, spread,
// the first pods of the first namespaces, each under policies of its own.
type cluster struct {
	pods, namespaces, policies int
	spread                     bool
}

// sized is a cluster with four pods and three policies in a namespace.
func sized(pods int) cluster {
	return cluster{pods: pods, namespaces: pods / 4, policies: pods / 4 * 3}
}

// objects is the cluster as an API server has it.
func (c cluster) objects() hub.Objects {
	return hub.Objects{
		"namespaces":      c.allNamespaces(),
		"pods":            c.allPods(),
		"networkpolicies": c.allPolicies(),
		"nodes": func(yield func(runtime.Object) bool) {
			yield(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: lab.Uplink4.String()}}}})
		},
	}
}

const nodeName = "bench-node"

func (c cluster) allNamespaces() iter.Seq[runtime.Object] {
	return func(yield func(runtime.Object) bool) {
		for i := -1; i < c.namespaces; i++ {
			name := "shop"
			if i >= 0 {
				name = namespaceName(i)
			}
			labels := map[string]string{corev1.LabelMetadataName: name, "team": fmt.Sprintf("team-%d", i%100)}
			if !yield(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}) {
				return
			}
		}
	}
}

func namespaceName(i int) string { return fmt.Sprintf("ns-%d", i) }

func (c cluster) allPods() iter.Seq[runtime.Object] {
	return func(yield func(runtime.Object) bool) {
		for i := range localPods {
			if o := c.localPod(i); !yield(o) {
				return
			}
		}
		for i := localPods; i < c.pods; i++ {
			role := "member"
			if i-localPods < min(1000, c.pods/10) {
				role = "peer"
			}
			if !yield(c.remotePod(i, role)) {
				return
			}
		}
	}
}

// remotePod is the i-th pod of the cluster, somewhere else.
func (c cluster) remotePod(i int, role string) *corev1.Pod {
	p := podOf(namespaceName(i%c.namespaces), fmt.Sprintf("pod-%d", i), map[string]string{
		"app": fmt.Sprintf("app-%d", i/c.namespaces%4), "role": role, "pod-template-hash": strconv.Itoa(i % 9973)})
	p.Spec.NodeName = fmt.Sprintf("node-%d", i/localPods)
	p.Status.PodIP = netip.AddrFrom4([4]byte{10, byte(64 + i>>16), byte(i >> 8), byte(i)}).String()
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	return p
}

// localName is the name of the node's i-th pod.
func (c cluster) localName(i int) (namespace, name string) {
	if c.spread {
		return namespaceName(i), fmt.Sprintf("pod-%d", i)
	}
	return "shop", fmt.Sprintf("web-%d", i)
}

// localPod is the node's i-th pod, without an address yet.
func (c cluster) localPod(i int) *corev1.Pod {
	ns, name := c.localName(i)
	p := podOf(ns, name, map[string]string{"app": "app-0", "role": "web"})
	p.Spec.NodeName = nodeName
	return p
}

// podOf is a pod as API servers send them: most of it is of no concern to a
// firewall.
func podOf(namespace, name string, labels map[string]string) *corev1.Pod {
	yes, one := true, int64(300)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, GenerateName: name[:strings.LastIndex(name, "-")+1], Labels: labels,
			CreationTimestamp: metav1.Unix(1_700_000_000, 0),
			Annotations:       map[string]string{"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z", "prometheus.io/scrape": "true"},
			OwnerReferences:   []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name, UID: "5f3b6a1e-6a47-4a59-9f56-7b4f0c4e2c11", Controller: &yes}},
			ManagedFields: []metav1.ManagedFieldsEntry{
				{Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:annotations":{".":{},"f:prometheus.io/scrape":{}},"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:role":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"5f3b6a1e-6a47-4a59-9f56-7b4f0c4e2c11\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:env":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{},"f:resources":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}`)}},
				{Manager: "kubelet", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", Subresource: "status", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{},"k:{\"type\":\"Initialized\"}":{},"k:{\"type\":\"Ready\"}":{}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:podIPs":{},"f:startTime":{}}}`)}},
			},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default", SchedulerName: "default-scheduler", RestartPolicy: corev1.RestartPolicyAlways,
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &one},
				{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &one}},
			Containers: []corev1.Container{{Name: "main", Image: "registry.example.com/shop/" + name + ":v1.2.3@sha256:4bc453b53cb3d914b45f4b250294236adba2c0e09ff6f03793949e7e39fd4cc1",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "DATABASE_URL", Value: "postgres://db:5432/shop"}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "192.0.2.77", Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	}
}

func (c cluster) allPolicies() iter.Seq[runtime.Object] {
	return func(yield func(runtime.Object) bool) {
		if !yield(shopPolicy(80)) {
			return
		}
		for i := range c.policies {
			if !yield(c.policy(i)) {
				return
			}
		}
	}
}

// everyPeer are the pods labelled role=peer, in all namespaces.
func everyPeer() []netv1.NetworkPolicyPeer {
	return []netv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"role": "peer"}}}}
}

// tcp are TCP ports.
func tcp(ports ...int) (list []netv1.NetworkPolicyPort) {
	proto := corev1.ProtocolTCP
	for _, p := range ports {
		port := intstr.FromInt(p)
		list = append(list, netv1.NetworkPolicyPort{Protocol: &proto, Port: &port})
	}
	return list
}

// shopPolicy isolates the shop and admits all peers, and the shop's own pods, at
// the ports.
func shopPolicy(ports ...int) *netv1.NetworkPolicy {
	own := netv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	udp, port := corev1.ProtocolUDP, intstr.FromInt(80)
	at := append(tcp(ports...), netv1.NetworkPolicyPort{Protocol: &udp, Port: &port})
	return &netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: netv1.NetworkPolicySpec{
		PolicyTypes: []netv1.PolicyType{netv1.PolicyTypeIngress},
		Ingress:     []netv1.NetworkPolicyIngressRule{{From: append(everyPeer(), own), Ports: at}},
	}}
}

// policy is the i-th of the cluster, one of three kinds: neighbours only; a team's
// namespaces; what the pods may call.
func (c cluster) policy(i int) *netv1.NetworkPolicy {
	ns := i % c.namespaces
	p := &netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceName(ns), Name: fmt.Sprintf("policy-%d", i/c.namespaces)}}
	app := func(name string) []netv1.NetworkPolicyPeer {
		return []netv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}}
	}
	switch i / c.namespaces % 3 {
	case 0:
		p.Spec.Ingress = []netv1.NetworkPolicyIngressRule{{From: app("app-1"), Ports: tcp(8080)}}
	case 1:
		team := &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprintf("team-%d", ns%100)}}
		p.Spec.Ingress = []netv1.NetworkPolicyIngressRule{{From: []netv1.NetworkPolicyPeer{{NamespaceSelector: team}}, Ports: tcp(9090)}}
	default:
		p.Spec.PolicyTypes = []netv1.PolicyType{netv1.PolicyTypeEgress}
		p.Spec.Egress = []netv1.NetworkPolicyEgressRule{{To: app("app-2"), Ports: tcp(5432)}, {To: everyPeer(), Ports: tcp(53)}}
	}
	return p
}

// A clusterNode is a node whose podwalld follows a cluster.
type clusterNode struct {
	*lab.Node
	cluster cluster
	hub     *hub.Hub
	flags   []string
	pods    []*lab.Sandbox
}

// newClusterNode makes a node and the cluster's API server, without podwalld.
func newClusterNode(name string, c cluster) (*clusterNode, error) {
	n, err := lab.NewNode(name)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if l, err = n.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	cn := &clusterNode{Node: n, cluster: c}
	if cn.hub, err = hub.Serve(l, c.objects(), cn.find); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(n.Dir, "kubeconfig")
	if err := writeFile(kubeconfig, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: hub, cluster: {server: "http://%s"}}]
users: [{name: podwalld, user: {}}]
contexts: [{name: hub, context: {cluster: hub, user: podwalld}}]
current-context: hub
`, l.Addr())); err != nil {
		return nil, err
	}
	cn.flags = []string{"--policy-dir=", "--kubeconfig", kubeconfig, "--node-name", nodeName}
	return cn, nil
}

// find returns one of the node's own pods.
func (n *clusterNode) find(namespace, name string) runtime.Object {
	for i := range localPods {
		if ns, pod := n.cluster.localName(i); ns == namespace && pod == name {
			return n.cluster.localPod(i)
		}
	}
	return nil
}

// start starts podwalld, and returns for how long it was not ready after the
// source had delivered everything.
func (n *clusterNode) start(ctx context.Context) (time.Duration, error) {
	n.hub.Forget()
	if err := n.Launch(n.flags...); err != nil {
		return 0, err
	}
	if err := serves(ctx, n.Node); err != nil {
		return 0, err
	}
	ready := time.Now()
	at, ok := n.hub.Delivered()
	if !ok {
		return 0, fmt.Errorf("wait for podwalld: ready before it had heard everything\n%s", n.LogTail())
	}
	return ready.Sub(at), nil
}

// serves waits until podwalld is ready, or ends.
func serves(ctx context.Context, n *lab.Node) error {
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end) && n.Running(); {
		if _, err = n.Policyctl(ctx, "status", "--wait", "5s"); err == nil {
			return nil
		}
	}
	return fmt.Errorf("wait for podwalld: %w\n%s", err, n.LogTail())
}

// fill adds the node's own pods, a few at a time.
func (n *clusterNode) fill(ctx context.Context) error {
	n.pods = make([]*lab.Sandbox, localPods)
	errs := make([]error, localPods)
	var all sync.WaitGroup
	turn := make(chan struct{}, 4)
	for i := range localPods {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			ns, name := n.cluster.localName(i)
			n.pods[i], errs[i] = n.AddPod(ctx, ns, name)
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("%w\n%s", err, n.LogTail())
		}
	}
	return nil
}

// end removes the node and its pods.
func (n *clusterNode) end() {
	n.hub.Close()
	_ = n.Close() // the machine goes anyway
	for _, sb := range n.pods {
		if sb != nil {
			_ = sb.Delete()
		}
	}
}
