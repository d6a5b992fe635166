package cyclonus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/integration/lab/labtest"
)

// special is the address of the one pod that cyclonus's blocks of addresses are
// about, z/c. Blocks of 28 bits around it hold no other pod's.
var special = netip.MustParseAddr("10.1.0.200")

// A key names a pod or a policy.
type key struct{ namespace, name string }

// A laboratory is a node with cyclonus's pods. One case at a time uses it.
type laboratory struct {
	t      *testing.T // of the laboratory, which outlives its cases
	node   *lab.Node
	pods   map[key]*pod
	labels map[string]map[string]string // of namespaces
	rules  map[key]*netv1.NetworkPolicy
	wanted []lab.Expectation // at the last step
}

type pod struct {
	*lab.Sandbox
	labels map[string]string
}

func newLaboratory(t *testing.T, name string) *laboratory {
	l := &laboratory{t: t, node: labtest.NewNodeNamed(t, name), pods: map[key]*pod{}}
	labtest.Must(t, l.node.Start(t.Context()))
	return l
}

// reset makes the laboratory as every case expects it: nine pods, no policies.
func (l *laboratory) reset(ctx context.Context) error {
	l.labels, l.rules = map[string]map[string]string{}, map[key]*netv1.NetworkPolicy{}
	for _, ns := range namespaces {
		l.labels[ns] = map[string]string{"ns": ns}
	}
	for id := range l.pods {
		if !slices.Contains(namespaces, id.namespace) || !slices.Contains(podNames, id.name) {
			if err := l.delete(id); err != nil {
				return err
			}
		}
	}
	for _, ns := range namespaces {
		for _, name := range podNames {
			if err := l.create(key{ns, name}, map[string]string{"pod": name}); err != nil {
				return err
			}
		}
	}
	return l.settle(ctx)
}

// create makes a pod that answers, or gives labels to one that is there.
func (l *laboratory) create(id key, labels map[string]string) error {
	if p := l.pods[id]; p != nil {
		p.labels = labels
		return nil
	}
	var addrs []netip.Addr
	if id == (key{"z", "c"}) {
		addrs = []netip.Addr{special}
	}
	l.pods[id] = &pod{labtest.AddPod(l.t, l.node, id.namespace, id.name, []uint16{80, 81}, addrs...), labels}
	return nil
}

// delete removes a pod.
func (l *laboratory) delete(id key) error {
	p := l.pods[id]
	if p == nil {
		return fmt.Errorf("no pod %s/%s", id.namespace, id.name)
	}
	delete(l.pods, id)
	return l.node.DelPod(l.t.Context(), p.Sandbox)
}

// take does what a step of a case says, and returns an error unless every flow is
// then as cyclonus says.
func (l *laboratory) take(ctx context.Context, step *generator.TestStep) error {
	for _, a := range step.Actions {
		if err := l.act(a); err != nil {
			return err
		}
	}
	return l.settle(ctx)
}

func (l *laboratory) act(a *generator.Action) error {
	switch {
	case a.CreatePolicy != nil:
		l.put(a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		l.put(a.UpdatePolicy.Policy)
	case a.DeletePolicy != nil:
		delete(l.rules, key{a.DeletePolicy.Namespace, a.DeletePolicy.Name})
	case a.CreateNamespace != nil:
		l.labels[a.CreateNamespace.Namespace] = a.CreateNamespace.Labels
	case a.SetNamespaceLabels != nil:
		l.labels[a.SetNamespaceLabels.Namespace] = a.SetNamespaceLabels.Labels
	case a.DeleteNamespace != nil:
		return l.deleteNamespace(a.DeleteNamespace.Namespace)
	case a.CreatePod != nil:
		return l.create(key{a.CreatePod.Namespace, a.CreatePod.Pod}, a.CreatePod.Labels)
	case a.SetPodLabels != nil:
		return l.create(key{a.SetPodLabels.Namespace, a.SetPodLabels.Pod}, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		return l.delete(key{a.DeletePod.Namespace, a.DeletePod.Pod})
	case a.ReadNetworkPolicies != nil: // there are none but those of the case
	default:
		return errors.New("an action that this laboratory does not know")
	}
	return nil
}

func (l *laboratory) put(p *netv1.NetworkPolicy) {
	p = p.DeepCopy()
	p.APIVersion, p.Kind = "networking.k8s.io/v1", "NetworkPolicy"
	l.rules[key{p.Namespace, p.Name}] = p
}

func (l *laboratory) deleteNamespace(name string) error {
	delete(l.labels, name)
	maps.DeleteFunc(l.rules, func(id key, _ *netv1.NetworkPolicy) bool { return id.namespace == name })
	var errs []error
	for id := range l.pods {
		if id.namespace == name {
			errs = append(errs, l.delete(id))
		}
	}
	return errors.Join(errs...)
}

// settle gives podwalld the present state, and waits until packets say the same as
// cyclonus's matcher.
func (l *laboratory) settle(ctx context.Context) error {
	manifest, err := l.manifest()
	if err != nil {
		return err
	}
	if err := l.node.WriteManifest("cyclonus.yaml", manifest); err != nil {
		return err
	}
	l.wanted = l.truth()
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	return lab.Settle(ctx, l.wanted)
}

// manifest is the present state, as a cluster would say it.
func (l *laboratory) manifest() (string, error) {
	var objects []any
	for name, labels := range l.labels {
		objects = append(objects, &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	}
	for id, p := range l.pods {
		objects = append(objects, &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Namespace: id.namespace, Name: id.name, Labels: p.labels},
			Spec:       corev1.PodSpec{Containers: containers()}})
	}
	for _, p := range l.rules {
		objects = append(objects, p)
	}
	var docs []string
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			return "", err
		}
		docs = append(docs, string(b))
	}
	return strings.Join(docs, "---\n"), nil
}

// doors are what every pod serves, and how cyclonus calls it.
var doors = []struct {
	port     uint16
	protocol corev1.Protocol
}{{80, corev1.ProtocolTCP}, {81, corev1.ProtocolTCP}, {80, corev1.ProtocolUDP}, {81, corev1.ProtocolUDP}}

func doorName(port uint16, protocol corev1.Protocol) string {
	return fmt.Sprintf("serve-%d-%s", port, strings.ToLower(string(protocol)))
}

func containers() []corev1.Container {
	var list []corev1.Container
	for _, d := range doors {
		list = append(list, corev1.Container{Name: doorName(d.port, d.protocol), Ports: []corev1.ContainerPort{
			{Name: doorName(d.port, d.protocol), ContainerPort: int32(d.port), Protocol: d.protocol}}})
	}
	return list
}

// truth is what cyclonus says of every flow between two pods. A pod always reaches
// itself, whatever cyclonus says.
func (l *laboratory) truth() []lab.Expectation {
	oracle := matcher.BuildNetworkPolicies(true, slices.Collect(maps.Values(l.rules)))
	var flows []lab.Expectation
	for from, src := range l.pods {
		for to, dst := range l.pods {
			for _, d := range doors {
				if from == to {
					continue
				}
				name := doorName(d.port, d.protocol)
				allowed := oracle.IsTrafficAllowed(&matcher.Traffic{Source: l.peer(from), Destination: l.peer(to),
					ResolvedPort: int(d.port), ResolvedPortName: name, Protocol: d.protocol}).IsAllowed()
				flows = append(flows, lab.Expectation{Name: fmt.Sprintf("%s to %s %s", src.Pod(), dst.Pod(), name), Pass: allowed,
					Flow: lab.Flow{From: src.Netns, Proto: strings.ToLower(string(d.protocol)), To: netip.AddrPortFrom(dst.Addr(false), d.port)}})
			}
		}
	}
	return flows
}

// peer is a pod as cyclonus's matcher wants it.
func (l *laboratory) peer(id key) *matcher.TrafficPeer {
	labels := map[string]string{"kubernetes.io/metadata.name": id.namespace}
	maps.Copy(labels, l.labels[id.namespace])
	p := l.pods[id]
	return &matcher.TrafficPeer{IP: p.Addr(false).String(),
		Internal: &matcher.InternalPeer{PodLabels: p.labels, NamespaceLabels: labels, Namespace: id.namespace}}
}

// flows counts the flows of the last step.
func (l *laboratory) flows() (allowed, denied int) {
	for _, w := range l.wanted {
		if w.Pass {
			allowed++
		} else {
			denied++
		}
	}
	return allowed, denied
}

// policies says, for failures, which policies there are.
func (l *laboratory) policies() string {
	b, err := yaml.Marshal(slices.Collect(maps.Values(l.rules)))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
