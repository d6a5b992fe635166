package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// A Pod is one to start. Its container runs the image Probe, or another.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	Node            string         // where it is to run; anywhere if empty
	Image           string         // Probe if empty
	Args            []string       // serve tcp/80 udp/80 if empty and the image is Probe
	Ports           map[string]int // its named ports, all TCP
	Once            bool           // it runs to its end and is not started again
}

// String is namespace/name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Manifest is the pod in JSON.
func (p Pod) Manifest() string {
	type object map[string]any
	image, args := p.Image, p.Args
	if image == "" {
		image = Probe
	}
	if len(args) == 0 && image == Probe {
		args = []string{"serve", "tcp/80", "udp/80"}
	}
	ports := []object{}
	for name, port := range p.Ports {
		ports = append(ports, object{"name": name, "containerPort": port})
	}
	restart := "Always"
	if p.Once {
		restart = "Never"
	}
	b, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"namespace": p.Namespace, "name": p.Name, "labels": p.Labels},
		"spec": object{
			"nodeName": p.Node, "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
			"automountServiceAccountToken": false, "enableServiceLinks": false,
			"tolerations": []object{{"operator": "Exists"}}, // it may wait for a node to come back
			"containers":  []object{{"name": "main", "image": image, "args": args, "imagePullPolicy": "Never", "ports": ports}},
		},
	})
	if err != nil {
		panic(err) // strings and numbers marshal
	}
	return string(b)
}

// Pods starts pods and waits until all are ready.
func (c *Cluster) Pods(ctx context.Context, pods ...Pod) error {
	var all []string
	for _, p := range pods {
		all = append(all, p.Manifest())
	}
	if err := c.Apply(ctx, strings.Join(all, "\n---\n")); err != nil {
		return err
	}
	for _, p := range pods {
		if err := c.WaitPod(ctx, p, "Ready"); err != nil {
			return err
		}
	}
	return nil
}

// WaitPod waits until a condition of a pod is true.
func (c *Cluster) WaitPod(ctx context.Context, p Pod, condition string) error {
	_, err := c.Kubectl(ctx, "wait", "-n", p.Namespace, "pod/"+p.Name, "--for=condition="+condition, "--timeout=90s")
	return err
}

// Addresses are a pod's, by family.
func (c *Cluster) Addresses(ctx context.Context, p Pod) (map[Family]netip.Addr, error) {
	out, err := c.Kubectl(ctx, "get", "pod", "-n", p.Namespace, p.Name, "-o", "jsonpath={.status.podIPs[*].ip}")
	if err != nil {
		return nil, err
	}
	return byFamily(strings.Fields(out))
}

// ClusterIPs are a Service's, by family.
func (c *Cluster) ClusterIPs(ctx context.Context, namespace, name string) (map[Family]netip.Addr, error) {
	out, err := c.Kubectl(ctx, "get", "service", "-n", namespace, name, "-o", "jsonpath={.spec.clusterIPs[*]}")
	if err != nil {
		return nil, err
	}
	return byFamily(strings.Fields(out))
}

func byFamily(texts []string) (map[Family]netip.Addr, error) {
	all := make(map[Family]netip.Addr)
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		f := IPv4
		if a.Is6() {
			f = IPv6
		}
		all[f] = a
	}
	return all, nil
}

// ExecPod runs a program in a pod and returns what it prints.
func (c *Cluster) ExecPod(ctx context.Context, p Pod, argv ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"exec", "-n", p.Namespace, p.Name, "--"}, argv...)...)
}

// PodLog is what a pod has printed since it started.
func (c *Cluster) PodLog(ctx context.Context, p Pod) (string, error) {
	return c.Kubectl(ctx, "logs", "-n", p.Namespace, p.Name)
}

// Dial asks a server of Probe from a pod: once, for up to a second. It returns the
// name of the server that answered and the address that this server saw. The
// error is a *Silence if none did.
//
// The question comes from the pod's network namespace, but not from a process of
// the pod: that saves the way through the API server and two kubelets.
func (c *Cluster) Dial(ctx context.Context, from Pod, network string, to netip.AddrPort) (server string, seen netip.Addr, err error) {
	out, err := c.ExecNetns(ctx, from, c.Tool("probe"), "dial", network+"/"+to.String())
	if err != nil {
		for _, how := range []string{"timeout", "refused", "denied"} {
			if strings.HasSuffix(err.Error(), ": "+how) {
				return "", netip.Addr{}, &Silence{How: how}
			}
		}
		return "", netip.Addr{}, err
	}
	var source string
	if _, err := fmt.Sscan(out, &server, &source); err != nil {
		return "", netip.Addr{}, fmt.Errorf("dial %s: answer %q: %w", to, out, err)
	}
	addr, err := netip.ParseAddrPort(source)
	return server, addr.Addr().Unmap(), err
}

// A Silence is that nobody answered.
type Silence struct{ How string } // timeout, refused or denied

func (s *Silence) Error() string { return s.How }

// Namespace makes a namespace, and waits until pods can be made in it.
func (c *Cluster) Namespace(ctx context.Context, name string) error {
	if err := c.Apply(ctx, fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name)); err != nil {
		return err
	}
	return c.Until(ctx, "namespace "+name+" has its service account", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "get", "serviceaccount", "-n", name, "default")
		return err
	})
}

// ExecNetns runs a program of the pod's node, not of the pod, in the pod's network
// namespace.
func (c *Cluster) ExecNetns(ctx context.Context, p Pod, argv ...string) (string, error) {
	n, netns, err := c.netns(ctx, p)
	if err != nil {
		return "", err
	}
	return n.Exec(ctx, append([]string{"nsenter", "--net=" + netns, "--"}, argv...)...)
}

// netns finds a pod's node, and its network namespace there.
func (c *Cluster) netns(ctx context.Context, p Pod) (*Node, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place, ok := c.places[p.String()]
	if ok {
		if _, err := os.Stat(place.node.Root(place.netns)); err == nil {
			return place.node, place.netns, nil
		}
	}
	said, err := c.Kubectl(ctx, "get", "pod", "-n", p.Namespace, p.Name, "-o", "jsonpath={.spec.nodeName} {.metadata.uid}")
	if err != nil {
		return nil, "", err
	}
	name, uid, _ := strings.Cut(said, " ") // an earlier pod of that name may still have a sandbox
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		return nil, "", fmt.Errorf("%s: on no node: %q", p, name)
	}
	place.node = c.Nodes[i]
	id, err := place.node.Crictl(ctx, "pods", "-q", "--state=ready", "--label=io.kubernetes.pod.uid="+uid)
	if err != nil {
		return nil, "", err
	}
	const path = `{{range .info.runtimeSpec.linux.namespaces}}{{if eq .type "network"}}{{.path}}{{end}}{{end}}`
	place.netns, err = place.node.Crictl(ctx, "inspectp", "-o", "go-template", "--template="+path, strings.TrimSpace(id))
	place.netns = strings.TrimSpace(place.netns)
	if err == nil && place.netns == "" {
		err = fmt.Errorf("%s: no network namespace of sandbox %q", p, id)
	}
	if err != nil {
		return nil, "", err
	}
	c.places[p.String()] = place
	return place.node, place.netns, nil
}

// A place is where a pod's network is.
type place struct {
	node  *Node
	netns string // a path on the node
}
