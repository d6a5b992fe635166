// Command parts builds the real programs that a test cluster is made of, from
// their Go modules.
//
//	parts [-o DIR] [-suites] [NAME…]
//
// Each folder beside this file is a module of its own, whose go.mod says nothing
// but the versions. They are apart from the product's, and from each other, since
// Kubernetes, etcd and containerd agree on few of their dependencies.
//
// # Contract
//
// A program that was built from the same go.mod, with the same flags and the same
// Go, is not built again. One that fails to build leaves the old one in place.
// Programs are built one after another, each with -p 2: linking Kubernetes' test
// binary alone takes 4 GB.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// A part is a program.
type part struct {
	name    string // what it is called in the output directory
	module  string // the folder with the go.mod
	pkg     string
	ldflags string
	test    bool // the test binary of the package
}

const (
	kubernetesVersion = "v1.36.3"
	containerdVersion = "v2.3.7"

	stripped      = "-s -w"
	ofKubernetes  = stripped + " -X k8s.io/component-base/version.gitVersion=" + kubernetesVersion + " -X k8s.io/component-base/version.gitMajor=1" + " -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitTreeState=clean" + " -X k8s.io/client-go/pkg/version.gitVersion=" + kubernetesVersion
	ofContainerd2 = stripped + " -X github.com/containerd/containerd/v2/version.Version=" + containerdVersion
)

// parts are in the order in which they are built: what others wait for first.
func parts() []part {
	all := []part{{name: "bin/etcd", module: "kubernetes", pkg: "go.etcd.io/etcd/server/v3", ldflags: ofKubernetes}}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "kube-proxy"} {
		all = append(all, part{name: "bin/" + name, module: "kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name, ldflags: ofKubernetes})
	}
	for _, pkg := range []string{"main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"} {
		all = append(all, part{name: "cni/" + filepath.Base(pkg), module: "plugins", ldflags: stripped,
			pkg: "github.com/containernetworking/plugins/plugins/" + pkg})
	}
	all = append(all,
		part{name: "bin/crictl", module: "critools", pkg: "sigs.k8s.io/cri-tools/cmd/crictl", ldflags: stripped},
		part{name: "bin/agnhost", module: "kubernetes", pkg: "k8s.io/kubernetes/test/images/agnhost", ldflags: ofKubernetes})
	for _, name := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		all = append(all, part{name: "containerd2/" + name, module: "containerd", ldflags: ofContainerd2,
			pkg: "github.com/containerd/containerd/v2/cmd/" + name})
	}
	return append(all,
		part{name: "bin/ginkgo", module: "kubernetes", pkg: "github.com/onsi/ginkgo/v2/ginkgo", ldflags: ofKubernetes},
		part{name: "bin/e2e.test", module: "kubernetes", pkg: "k8s.io/kubernetes/test/e2e", ldflags: ofKubernetes, test: true},
		part{name: "bin/cyclonus", module: "cyclonus", pkg: "github.com/mattfenwick/cyclonus/cmd/cyclonus", ldflags: stripped})
}

func main() {
	out := flag.String("o", ".cache/cluster", "the `directory` to build into")
	source := flag.String("modules", "integration/cluster/parts", "the `directory` of this program's modules")
	flag.Parse()
	if err := build(*source, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}

// build builds the named parts, or all.
func build(source, out string, names []string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	all := parts()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(p part) bool { return filepath.Base(p.name) == name }) {
			return fmt.Errorf("no part is called %s", name)
		}
	}
	var errs []error
	for _, p := range all {
		if len(names) == 0 || slices.Contains(names, filepath.Base(p.name)) {
			errs = append(errs, p.build(filepath.Join(source, p.module), filepath.Join(out, p.name)))
		}
	}
	return errors.Join(errs...)
}

// build builds p from the module in dir, unless target is what it would make.
func (p part) build(dir, target string) error {
	want, err := p.stamp(dir)
	if err != nil {
		return err
	}
	stamp := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".stamp")
	if got, err := os.ReadFile(stamp); err == nil && string(got) == want {
		if _, err := os.Stat(target); err == nil {
			return nil
		}
	}
	start := time.Now()
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(target), ".building-") // /tmp may be small
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	next := target + ".next"
	cmd := exec.Command("go", p.args(next)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTMPDIR="+scratch, "GOFLAGS=-buildvcs=false -mod=readonly -trimpath")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", p.name, err, said)
	}
	fmt.Printf("%-28s %5.0f s\n", p.name, time.Since(start).Seconds())
	return errors.Join(os.Rename(next, target), os.WriteFile(stamp, []byte(want), 0o644))
}

func (p part) args(target string) []string {
	verb := []string{"build"}
	if p.test {
		verb = []string{"test", "-c", "-vet=off"}
	}
	return append(verb, "-p", "2", "-ldflags", p.ldflags, "-o", target, p.pkg)
}

// stamp tells apart what would be built differently.
func (p part) stamp(dir string) (string, error) {
	mod, err1 := os.ReadFile(filepath.Join(dir, "go.mod"))
	sum, err2 := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %q %x", runtime.Version(), p.args(""), sha256.Sum256(append(mod, sum...))), nil
}
