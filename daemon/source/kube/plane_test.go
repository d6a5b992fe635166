//go:build e2e

package kube

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
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// These tests are about the real thing: etcd and kube-apiserver, which `make e2e`
// builds into this folder.
const tools = "../../../.cache/cluster/bin"

// The tokens by which the API server knows its users.
const (
	adminToken = "admin-token"
	ownToken   = "podwalld-token"
	ownUser    = "system:serviceaccount:podwall:podwall"
)

// A plane is a control plane on loopback.
type plane struct {
	t         *testing.T
	dir       string
	etcdPort  int
	port      int
	etcd, api *exec.Cmd
	flags     []string // more of the API server's
	admin     *rest.Config
}

// newPlane starts one. It knows install/manifests' rules, and ownUser by them.
func newPlane(t *testing.T, flags ...string) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir(), etcdPort: freePort(t), port: freePort(t), flags: flags}
	p.write("tokens.csv", fmt.Sprintf("%s,admin,admin,\"system:masters\"\n%s,%s,podwalld\n", adminToken, ownToken, ownUser))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	p.startEtcd()
	p.startAPI()
	t.Cleanup(func() {
		p.stop(&p.api, syscall.SIGKILL)
		p.stop(&p.etcd, syscall.SIGKILL)
	})
	p.kubectl("", "create", "namespace", "podwall")
	p.kubectl("", "apply", "-n", "podwall", "-f", "../../../install/manifests/base/rbac.yaml")
	return p
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

func (p *plane) path(name string) string { return filepath.Join(p.dir, name) }

func (p *plane) write(name, content string) string {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return p.path(name)
}

// start starts a program whose output goes to a file, shown if the test fails.
func (p *plane) start(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	log, err := os.OpenFile(p.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(tools, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v (make e2e builds it)", name, err)
	}
	return cmd
}

func (p *plane) stop(c **exec.Cmd, how os.Signal) {
	if *c == nil {
		return
	}
	_ = (*c).Process.Signal(how)
	_, _ = (*c).Process.Wait()
	*c = nil
}

func (p *plane) startEtcd() {
	p.t.Helper()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", p.etcdPort), fmt.Sprintf("http://127.0.0.1:%d", freePort(p.t))
	p.etcd = p.start("etcd", "--data-dir="+p.path("etcd"), "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync", "--log-level=error")
}

func (p *plane) startAPI() {
	p.t.Helper()
	p.api = p.start("kube-apiserver", append([]string{fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", p.etcdPort),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", p.port), "--cert-dir=" + p.path("certs"),
		"--token-auth-file=" + p.path("tokens.csv"), "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + p.path("sa.key"),
		"--service-account-signing-key-file=" + p.path("sa.key"), "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
	}, p.flags...)...)
	p.until("the API server is ready", func() error {
		out, err := p.tryKubectl("", "get", "--raw", "/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	p.admin = &rest.Config{Host: p.url(), BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("certs/apiserver.crt")}, QPS: -1}
}

func (p *plane) url() string { return fmt.Sprintf("https://127.0.0.1:%d", p.port) }

// kubeconfig writes one with a token for the API server at url.
func (p *plane) kubeconfig(name, url, token string) string {
	p.t.Helper()
	type m map[string]any
	b, err := json.Marshal(m{"apiVersion": "v1", "kind": "Config", "current-context": "it",
		"clusters": []m{{"name": "it", "cluster": m{"server": url, "certificate-authority": p.path("certs/apiserver.crt")}}},
		"users":    []m{{"name": "it", "user": m{"token": token}}},
		"contexts": []m{{"name": "it", "context": m{"cluster": "it", "user": "it"}}}})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.write(name, string(b))
}

func (p *plane) tryKubectl(stdin string, args ...string) (string, error) {
	args = append([]string{"--server=" + p.url(), "--token=" + adminToken, "--insecure-skip-tls-verify", "--cache-dir=" + p.path("cache")}, args...)
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(tools, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *plane) kubectl(stdin string, args ...string) string {
	p.t.Helper()
	out, err := p.tryKubectl(stdin, args...)
	if err != nil {
		p.t.Fatalf("kubectl %v: %v: %s", args, err, out)
	}
	return out
}

func (p *plane) apply(yaml string) {
	p.t.Helper()
	p.kubectl(yaml, "apply", "-f", "-")
}

// until tries until it works, for up to 40 seconds.
func (p *plane) until(what string, try func() error) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if b, err := os.ReadFile(p.path(name + ".log")); err == nil {
			lines := bytes.Split(b, []byte("\n"))
			p.t.Logf("%s: %s", name, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
		}
	}
	p.t.Fatalf("wait until %s: %v", what, err)
}

// client is the administrator's for a group and version.
func (p *plane) client(gv schema.GroupVersion) *rest.RESTClient {
	p.t.Helper()
	cfg := rest.CopyConfig(p.admin)
	cfg.GroupVersion, cfg.NegotiatedSerializer = &gv, serializer.NewCodecFactory(newScheme()).WithoutConversion()
	cfg.ContentType, cfg.APIPath = runtime.ContentTypeProtobuf, "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}
