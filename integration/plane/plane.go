// Package plane runs the control plane of a Kubernetes cluster without nodes, on
// loopback: etcd and kube-apiserver, for tests of what talks to them.
//
//	p := plane.New(t)
//	p.Apply(manifests)
//	p.StopAPI()
//	p.Compact()
//	p.StartAPI()
//
// # Contract
//
// The programs are the real ones, which `make e2e` builds, and are killed with the
// test or with its process. A failure of any method is the test's. There are no
// controllers: nothing schedules, and a namespace that is deleted stays until it is
// finalized.
package plane

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tokens by which the API server knows its users: the administrator, and the
// service account that install/manifests makes.
const (
	AdminToken = "admin-token"
	OwnToken   = "podwalld-token"
)

// A Plane is a control plane on loopback.
type Plane struct {
	t         *testing.T
	root      string // of the repository
	dir       string
	etcdPort  int
	port      int
	etcd, api *program
	flags     []string // more of the API server's
}

// New starts one, with more flags of the API server. It has the rules of
// install/manifests.
func New(t *testing.T, flags ...string) *Plane {
	t.Helper()
	p := &Plane{t: t, root: repository(t), dir: t.TempDir(), etcdPort: freePort(t), port: freePort(t), flags: flags}
	p.Write("tokens.csv", fmt.Sprintf("%s,admin,admin,\"system:masters\"\n%s,%s,podwalld\n", AdminToken, OwnToken, "system:serviceaccount:podwall:podwall"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.Write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	p.StartEtcd()
	p.StartAPI()
	t.Cleanup(func() {
		p.StopAPI()
		p.StopEtcd()
	})
	p.Rights()
	return p
}

// Rights gives the service account its rights.
func (p *Plane) Rights() {
	p.t.Helper()
	p.Kubectl("", "create", "namespace", "podwall")
	p.Kubectl("", "apply", "-n", "podwall", "-f", filepath.Join(p.root, "install/manifests/base/rbac.yaml"))
}

// repository is the folder of the product's go.mod.
func repository(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Path is a file of that name in the plane's own directory.
func (p *Plane) Path(name string) string { return filepath.Join(p.dir, name) }

// Write writes such a file and returns its path.
func (p *Plane) Write(name, content string) string {
	p.t.Helper()
	if err := os.WriteFile(p.Path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return p.Path(name)
}

// start starts a program whose output goes to a file, shown if the test fails.
func (p *Plane) start(name string, args ...string) *program {
	p.t.Helper()
	log, err := os.OpenFile(p.Path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(p.root, ".cache/cluster/bin", name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r := &program{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the thread that started it for the parent: it stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log says why
		}
		close(r.ended)
	}()
	if err := <-started; err != nil {
		p.t.Fatalf("start %s: %v (make e2e builds it)", name, err)
	}
	return r
}

// A program is one that runs.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// kill ends the program, if there is one, and returns none.
func (r *program) kill() *program {
	if r != nil {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
	}
	return nil
}

// StopAPI kills the API server.
func (p *Plane) StopAPI() { p.api = p.api.kill() }

// StopEtcd kills etcd.
func (p *Plane) StopEtcd() { p.etcd = p.etcd.kill() }

// StartEtcd starts etcd, with what it stored before.
func (p *Plane) StartEtcd() {
	p.t.Helper()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", p.etcdPort), fmt.Sprintf("http://127.0.0.1:%d", freePort(p.t))
	p.etcd = p.start("etcd", "--data-dir="+p.Path("etcd"), "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync", "--log-level=error")
}

// StartAPI starts the API server and waits until it is ready.
func (p *Plane) StartAPI() {
	p.t.Helper()
	p.api = p.start("kube-apiserver", append([]string{fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", p.etcdPort),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", p.port), "--cert-dir=" + p.Path("certs"),
		"--token-auth-file=" + p.Path("tokens.csv"), "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + p.Path("sa.key"),
		"--service-account-signing-key-file=" + p.Path("sa.key"), "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
	}, p.flags...)...)
	p.Until("the API server is ready", func() error {
		out, err := p.tryKubectl("", "get", "--raw", "/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// URL is the API server's.
func (p *Plane) URL() string { return fmt.Sprintf("https://127.0.0.1:%d", p.port) }

// Kubeconfig writes one with a token for the API server at url.
func (p *Plane) Kubeconfig(name, url, token string) string {
	p.t.Helper()
	type m map[string]any
	b, err := json.Marshal(m{"apiVersion": "v1", "kind": "Config", "current-context": "it",
		"clusters": []m{{"name": "it", "cluster": m{"server": url, "certificate-authority": p.Path("certs/apiserver.crt")}}},
		"users":    []m{{"name": "it", "user": m{"token": token}}},
		"contexts": []m{{"name": "it", "context": m{"cluster": "it", "user": "it"}}}})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.Write(name, string(b))
}

func (p *Plane) tryKubectl(stdin string, args ...string) (string, error) {
	args = append([]string{"--server=" + p.URL(), "--token=" + AdminToken, "--insecure-skip-tls-verify", "--cache-dir=" + p.Path("cache")}, args...)
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.root, ".cache/cluster/bin", "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Kubectl runs kubectl as the administrator, and returns what it prints.
func (p *Plane) Kubectl(stdin string, args ...string) string {
	p.t.Helper()
	out, err := p.tryKubectl(stdin, args...)
	if err != nil {
		p.t.Fatalf("kubectl %v: %v: %s", args, err, out)
	}
	return out
}

// Apply applies manifests.
func (p *Plane) Apply(yaml string) {
	p.t.Helper()
	p.Kubectl(yaml, "apply", "-f", "-")
}

// Until tries until it works, for up to 90 seconds.
func (p *Plane) Until(what string, try func() error) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if b, err := os.ReadFile(p.Path(name + ".log")); err == nil {
			lines := bytes.Split(b, []byte("\n"))
			p.t.Logf("%s: %s", name, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
		}
	}
	p.t.Fatalf("wait until %s: %v", what, err)
}
