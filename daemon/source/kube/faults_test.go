//go:build e2e

package kube

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/plane"
)

// What was known is in force when the daemon starts and the API server is away, and
// what changed meanwhile is a difference when it is back.
func TestStartWithoutAPIServer(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	files := newMemory()
	with := func() *Source {
		s := own(p)
		s.Files = files
		return s
	}
	c := follow(t, with())
	p.Until("the shop is stored", func() error {
		if !files.has(complete, ".kube/1/Pod/shop/web", ".kube/1/NetworkPolicy/shop/web", ".kube/1/Namespace//shop") {
			return fmt.Errorf("%d files", len(files.contents))
		}
		return nil
	})
	c.stop()

	p.StopAPI()
	c = follow(t, with())
	c.sees(p, "what was stored is in force, and it is said", func() bool {
		return c.unknown == "" && c.wholes == 1 && c.pods[webPod].Labels["app"] == "web" && c.policies[webPolicy].Ingress.Applies &&
			c.problem("connection refused") && c.problem("not read since podwalld started")
	})
	if st := c.Status(); st.Known.IsZero() || !st.Heard.IsZero() || st.Lag == 0 {
		t.Errorf("status %+v", st)
	}
	if err := c.Learn(t.Context(), "shop", "web", c.pods[webPod].UID); err != nil {
		t.Errorf("ADD of a pod that was known: %v", err)
	}
	start := time.Now()
	if err := c.Learn(t.Context(), "shop", "new", "1"); err == nil || time.Since(start) > 3*time.Second {
		t.Errorf("ADD of a pod that was not: %v after %s", err, time.Since(start))
	}
	p.StartAPI()
	p.Kubectl("", "delete", "-n", "shop", "networkpolicy", "web")
	c.sees(p, "the API server is followed again", func() bool { return len(c.policies) == 0 && len(c.problems) == 0 })
	if c.wholes != 1 || c.gone != 1 {
		t.Errorf("%d whole Updates and %d objects gone, want 1 and 1", c.wholes, c.gone)
	}
	c.stop()

	// A policy is stored before it is in force: no restart forgets it.
	c = follow(t, with())
	c.sees(p, "the shop is known", func() bool { return len(c.pods) == 1 })
	p.Apply(shop)
	c.sees(p, "the policy is known", func() bool { return len(c.policies) == 1 })
	if !files.has(".kube/1/NetworkPolicy/shop/web") {
		t.Error("the policy is in force, and is not stored")
	}
}

// With the API server away and nothing stored, nothing is said to be known.
func TestNothingKnown(t *testing.T) {
	p := plane.New(t)
	p.StopAPI()
	s := own(p)
	s.Files = newMemory()
	c := follow(t, s)
	c.sees(p, "it is said why", func() bool { return strings.Contains(c.unknown, "connection refused") })
	if len(c.objects) > 0 {
		t.Errorf("objects %v", c.objects)
	}
}

// An API server that is another cluster's now says nothing that counts.
func TestOtherCluster(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return len(c.policies) == 1 && len(c.pods) == 1 })
	p.StopAPI()
	p.StopEtcd()
	if err := os.RemoveAll(p.Path("etcd")); err != nil {
		t.Fatal(err)
	}
	p.StartEtcd()
	p.StartAPI()
	p.Rights()
	c.sees(p, "it is refused", func() bool { return c.problem("another cluster's now") })
	p.Apply("{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}")
	time.Sleep(2 * time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.policies) != 1 || len(c.pods) != 1 || c.gone > 0 || c.namespaces["elsewhere"].Name != "" {
		t.Errorf("policies %v, pods %v, %d gone, namespaces %v: want those of before", c.policies, c.pods, c.gone, c.namespaces)
	}
}

// What publish can't take yet is gathered, and the last state counts.
func TestSlowConsumer(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	c := follow(t, own(p))
	c.sees(p, "the shop is known", func() bool { return len(c.pods) == 1 })
	c.mu.Lock()
	c.hold = make(chan struct{})
	hold, before := c.hold, c.updates
	c.mu.Unlock()
	for i := range 10 {
		p.Kubectl("", "label", "--overwrite", "-n", "shop", "pod", "web", fmt.Sprintf("turn=n%d", i))
	}
	if lag := c.Status().Lag; lag == 0 {
		t.Error("news wait to be published, and the lag is 0")
	}
	c.mu.Lock()
	c.hold = nil
	c.mu.Unlock()
	close(hold)
	c.sees(p, "the last label is known", func() bool { return c.pods[webPod].Labels["turn"] == "n9" })
	if n := c.updates - before; n > 3 {
		t.Errorf("%d Updates for what was gathered, want 2", n)
	}
}

// The API server is asked for protobuf, and to send what there is as a stream.
func TestProtocol(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	target, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said []string
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	proxy.ModifyResponse = func(r *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		q := r.Request.URL.Query()
		said = append(said, fmt.Sprintf("%s %d %s initial=%s fields=%s", r.Request.URL.Path, r.StatusCode, r.Header.Get("Content-Type"), q.Get("sendInitialEvents"), q.Get("fieldSelector")))
		return nil
	}
	front := httptest.NewUnstartedServer(proxy)
	pair, err := tls.LoadX509KeyPair(p.Path("certs/apiserver.crt"), p.Path("certs/apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.StartTLS()
	t.Cleanup(front.Close)
	c := follow(t, &Source{Kubeconfig: p.Kubeconfig("proxy.kubeconfig", front.URL, plane.OwnToken)})
	c.sees(p, "the shop is known", func() bool { return len(c.policies) == 1 })
	mu.Lock()
	defer mu.Unlock()
	watches := 0
	for _, s := range said {
		if strings.Contains(s, "initial=true") {
			watches++
		}
		if !strings.Contains(s, " 200 application/vnd.kubernetes.protobuf") {
			t.Errorf("the API server was not asked for protobuf: %s", s)
		}
	}
	if watches != 7 {
		t.Errorf("%d streams with what there is, want 7:\n%s", watches, strings.Join(said, "\n"))
	}
}

// A wire between the source and the API server, which can be cut without a word.
type wire struct {
	listener net.Listener
	mu       sync.Mutex
	cut      bool
	conns    []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, c, s)
			w.mu.Unlock()
			go w.carry(c, s)
			go w.carry(s, c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.conns {
			_ = c.Close()
		}
	})
	return w
}

func (w *wire) carry(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		for w.isCut() {
			time.Sleep(10 * time.Millisecond)
		}
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			_ = to.Close()
			return
		}
	}
}

func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// A partition without a word is a lag at first, and then a fault; afterwards what
// was missed comes as differences.
func TestPartition(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "10") // as the daemon does
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "5")
	p := plane.New(t)
	p.Apply(shop)
	w := newWire(t, strings.TrimPrefix(p.URL(), "https://"))
	c := follow(t, &Source{Kubeconfig: p.Kubeconfig("wire.kubeconfig", "https://"+w.listener.Addr().String(), plane.OwnToken)})
	c.sees(p, "the shop is known", func() bool { return len(c.policies) == 1 && len(c.pods) == 1 })
	w.set(true)
	p.Apply(strings.ReplaceAll(web, "name: web", "name: second"))
	start := time.Now()
	if err := c.Learn(t.Context(), "shop", "second", ""); err == nil {
		t.Error("a pod was learned across the partition")
	} else if took := time.Since(start); took > askWithin+time.Second {
		t.Errorf("it took %s to find out: %v", took, err)
	}
	p.Until("the partition is noticed", func() error {
		if st := c.Status(); st.Lag == 0 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	t.Logf("noticed after %s", time.Since(start))
	w.set(false)
	c.sees(p, "what was missed is known", func() bool { return len(c.pods) == 2 && len(c.problems) == 0 })
	if c.wholes != 1 || c.gone > 0 {
		t.Errorf("%d whole Updates, %d gone", c.wholes, c.gone)
	}
}
