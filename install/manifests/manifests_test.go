// Package manifests has the manifests that install podwall on a cluster, and holds
// them to the programs and to Kubernetes' types.
package manifests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/conf/netconf"
)

const root = "../.."

// overlays are the folders that somebody may apply.
var overlays = []string{"base", "gke", "k3s", "openshift"}

// kinds are Kubernetes' types of all that is in the manifests.
func kinds() map[string]any {
	return map[string]any{
		"v1 Namespace":                                                     new(core.Namespace),
		"v1 ServiceAccount":                                                new(core.ServiceAccount),
		"v1 ResourceQuota":                                                 new(core.ResourceQuota),
		"rbac.authorization.k8s.io/v1 Role":                                new(rbac.Role),
		"rbac.authorization.k8s.io/v1 RoleBinding":                         new(rbac.RoleBinding),
		"rbac.authorization.k8s.io/v1 ClusterRole":                         new(rbac.ClusterRole),
		"rbac.authorization.k8s.io/v1 ClusterRoleBinding":                  new(rbac.ClusterRoleBinding),
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":        new(admission.ValidatingAdmissionPolicy),
		"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding": new(admission.ValidatingAdmissionPolicyBinding),
		"apps/v1 DaemonSet":                                                new(apps.DaemonSet),
	}
}

// built returns what kustomize makes of an overlay, one document each.
func built(t *testing.T, overlay string) [][]byte {
	t.Helper()
	kustomize := filepath.Join(root, ".cache/kustomize")
	if _, err := os.Stat(kustomize); err != nil {
		t.Fatalf("%v; run make .cache/kustomize", err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(kustomize, "build", overlay)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	return bytes.Split(out, []byte("\n---\n"))
}

// strict reads a document into its type, in which every field must exist.
func strict(t *testing.T, text []byte) (kind string, object any) {
	t.Helper()
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(text, &head); err != nil {
		t.Fatal(err)
	}
	kind = head.APIVersion + " " + head.Kind
	object = kinds()[kind]
	if object == nil {
		t.Fatalf("no type for %s", kind)
	}
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return kind, object
}

// A manifest is all that an overlay applies.
type manifest struct {
	objects   map[string]any // by kind and name
	daemonSet *apps.DaemonSet
}

// read reads an overlay.
func read(t *testing.T, overlay string) manifest {
	t.Helper()
	m := manifest{objects: make(map[string]any)}
	for _, text := range built(t, overlay) {
		kind, object := strict(t, text)
		m.objects[kind+" "+object.(interface{ GetName() string }).GetName()] = object
		if d, ok := object.(*apps.DaemonSet); ok {
			m.daemonSet = d
		}
	}
	if m.daemonSet == nil {
		t.Fatal("no DaemonSet")
	}
	return m
}

// Every field exists in Kubernetes' types, and every overlay keeps these laws.
func TestManifests(t *testing.T) {
	laws := []struct {
		name  string
		check func(*testing.T, manifest)
	}{
		{"what has a namespace is in podwall's", inNamespace},
		{"what is called is in the image and takes the flags", commands},
		{"the probe asks with the flags that run has", askedAsRun},
		{"what the programs read and write is mounted, and nothing else", mounts},
		{"no container may do more than it needs", leastPrivilege},
		{"names agree", namesAgree},
		{"there is one image, and its tag says which", oneImage},
	}
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			m := read(t, overlay)
			for _, l := range laws {
				t.Run(l.name, func(t *testing.T) { l.check(t, m) })
			}
		})
	}
}

// containers are all of a DaemonSet's, those of init too.
func containers(d *apps.DaemonSet) []core.Container {
	return slices.Concat(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers)
}

func inNamespace(t *testing.T, m manifest) {
	for what, object := range m.objects {
		global := slices.ContainsFunc([]string{"Cluster", "Validating", "v1 Namespace"}, func(s string) bool { return strings.Contains(what, s) })
		want := map[bool]string{true: "", false: "podwall"}[global]
		if got := object.(interface{ GetNamespace() string }).GetNamespace(); got != want {
			t.Errorf("%s: namespace %q, want %q", what, got, want)
		}
	}
}

func commands(t *testing.T, m manifest) {
	for _, c := range containers(m.daemonSet) {
		commands := [][]string{c.Command}
		for _, p := range []*core.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if p != nil {
				commands = append(commands, p.Exec.Command)
			}
		}
		for _, command := range commands {
			if err := accepts(command); err != nil {
				t.Errorf("%v: %v", command, err)
			}
		}
	}
}

// accepts returns an error unless a binary knows the command and all its flags.
func accepts(command []string) error {
	binary := filepath.Join(root, "bin", command[0])
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%w; run make build", err)
	}
	var args []string
	if len(command) > 1 && !strings.HasPrefix(command[1], "-") {
		args = command[1:2]
	}
	help, err := exec.Command(binary, append(slices.Clip(args), "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, help)
	}
	for _, arg := range command[1+len(args):] {
		flag, _, _ := strings.Cut(arg, "=")
		if !slices.Contains(strings.Fields(string(help)), flag) {
			return fmt.Errorf("no flag %s", flag)
		}
	}
	return nil
}

func askedAsRun(t *testing.T, m manifest) {
	for _, c := range containers(m.daemonSet) {
		if c.Name != "podwall-install" {
			continue
		}
		var run []string
		for _, arg := range c.Command[2:] {
			if !strings.HasPrefix(arg, "--daemonset=") && !strings.HasPrefix(arg, "--taint=") {
				run = append(run, arg)
			}
		}
		if got := c.ReadinessProbe.Exec.Command[2:]; !slices.Equal(got, run) {
			t.Errorf("run %v, status %v", run, got)
		}
	}
}

func mounts(t *testing.T, m manifest) {
	cfg := daemonconf.Default()
	want := map[string][]string{
		"binaries":        {"/opt/cni/bin"},
		"podwall-install": {"/etc/cni/net.d", "/opt/cni/bin", "/run/netns ro", "/run/podwall", "/var/lib/cni ro"},
		"podwalld":        {"/run/netns ro", path.Dir(cfg.Socket), cfg.CNICacheDir + " ro", cfg.StateDir},
	}
	for _, c := range containers(m.daemonSet) {
		var got []string
		for _, m := range c.VolumeMounts {
			mode := map[bool]string{true: " ro"}[m.ReadOnly]
			got = append(got, m.MountPath+mode)
			propagated := m.MountPropagation != nil && *m.MountPropagation == core.MountPropagationHostToContainer
			if propagated != (m.Name == "netns") {
				t.Errorf("%s: %s: propagated %v: namespaces that come later must be seen, and nothing else", c.Name, m.Name, propagated)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, slices.Sorted(slices.Values(want[c.Name]))) {
			t.Errorf("%s mounts %v, want %v", c.Name, got, want[c.Name])
		}
	}
	if path.Dir(netconf.DefaultSocket) != path.Dir(cfg.Socket) {
		t.Errorf("plugin and daemon meet at %s and %s", netconf.DefaultSocket, cfg.Socket)
	}
}

func leastPrivilege(t *testing.T, m manifest) {
	want := map[string][]core.Capability{
		"binaries":        {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
		"podwall-install": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},
		"podwalld":        {"NET_ADMIN", "NET_BROADCAST", "SYS_ADMIN"},
	}
	pod := m.daemonSet.Spec.Template.Spec
	if !pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("host network %v, PIDs %v, IPC %v, priority %q", pod.HostNetwork, pod.HostPID, pod.HostIPC, pod.PriorityClassName)
	}
	if p := pod.SecurityContext.SeccompProfile; p == nil || p.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccomp profile %v", p)
	}
	for _, c := range containers(m.daemonSet) {
		s := c.SecurityContext
		if !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || s.Privileged != nil || s.SeccompProfile != nil {
			t.Errorf("%s: %+v", c.Name, s)
		}
		if !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, want[c.Name]) {
			t.Errorf("%s: capabilities %+v, want %v", c.Name, s.Capabilities, want[c.Name])
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s asks for no resources", c.Name)
		}
	}
}

// namesAgree: the taint that run takes away is the one that podwall may change, and
// the DaemonSet that it asks for is this one, which it may ask for.
func namesAgree(t *testing.T, m manifest) {
	const taint = "podwall.io/agent-not-ready"
	guard := m.objects["admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy podwall-nodes"].(*admission.ValidatingAdmissionPolicy)
	if v := guard.Spec.Validations; !strings.Contains(v[len(v)-1].Expression, "'"+taint+"'") {
		t.Errorf("admission does not know the taint %s", taint)
	}
	role := m.objects["rbac.authorization.k8s.io/v1 Role podwall"].(*rbac.Role).Rules[0]
	if !slices.Equal(role.ResourceNames, []string{m.daemonSet.Name}) || !slices.Equal(role.Resources, []string{"daemonsets"}) || !slices.Equal(role.Verbs, []string{"get", "watch"}) {
		t.Errorf("the role permits %+v", role)
	}
	for _, c := range m.daemonSet.Spec.Template.Spec.Containers {
		for _, arg := range c.Command {
			if key, ok := strings.CutPrefix(arg, "--taint="); ok && key != taint {
				t.Errorf("%s: taint %s, want %s", c.Name, key, taint)
			}
			if name, ok := strings.CutPrefix(arg, "--daemonset="); ok && name != m.daemonSet.Namespace+"/"+m.daemonSet.Name {
				t.Errorf("%s: DaemonSet %s", c.Name, name)
			}
		}
	}
}

func oneImage(t *testing.T, m manifest) {
	for _, c := range containers(m.daemonSet) {
		if name, tag, ok := strings.Cut(c.Image, ":"); name != "ghcr.io/podwall/podwall" || !ok || tag == "latest" {
			t.Errorf("%s: image %s", c.Name, c.Image)
		}
	}
}
