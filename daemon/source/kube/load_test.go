//go:build e2e

package kube

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/podwall/podwall/integration/plane"
	"github.com/podwall/podwall/internal/policy"
)

const crowd = 5000

// fill makes pods as they are in clusters: of Deployments of ten, with sidecar,
// probes, volumes and an address.
func fill(t *testing.T, p *plane.Plane) {
	t.Helper()
	gv := corev1.SchemeGroupVersion
	c, err := rest.RESTClientFor(&rest.Config{Host: p.URL(), BearerToken: plane.AdminToken, QPS: -1, WarningHandler: rest.NoWarnings{}, APIPath: "/api",
		TLSClientConfig: rest.TLSClientConfig{CAFile: p.Path("certs/apiserver.crt")},
		ContentConfig: rest.ContentConfig{GroupVersion: &gv, ContentType: kruntime.ContentTypeProtobuf,
			NegotiatedSerializer: serializer.NewCodecFactory(newScheme()).WithoutConversion()}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				pod := crowdPod(i)
				if err := c.Post().Namespace("shop").Resource("pods").Body(pod).Do(t.Context()).Error(); err != nil {
					t.Error(err)
				}
				status := fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}]}}`, address(i), address(i))
				if err := c.Patch(types.MergePatchType).Namespace("shop").Resource("pods").Name(pod.Name).SubResource("status").
					Body([]byte(status)).Do(t.Context()).Error(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range crowd {
		next <- i
	}
	close(next)
	wg.Wait()
}

// peak watches the heap until stop is called.
func peak() (stop func() uint64) {
	var most uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(done); <-ended; return most }
}

// A cluster of 5,000 pods is known within seconds and in few bytes, and a change of
// one is one.
func TestCrowd(t *testing.T) {
	p := plane.New(t)
	p.Apply(shop)
	start := time.Now()
	fill(t, p)
	t.Logf("made %d pods in %s", crowd, time.Since(start))
	before, stop := live(), peak()
	start = time.Now()
	c := follow(t, own(p))
	c.sees(p, "every pod is known", func() bool { return len(c.pods) == crowd+1 })
	took, most := time.Since(start), stop()
	after := live()
	each := (after - before) / crowd
	c.mu.Lock()
	c.pods = map[policy.Name]policy.Pod{}
	c.mu.Unlock()
	here := (live() - before) / crowd
	t.Logf("%d pods: synced in %s; %d bytes a pod, of which the source keeps %d; heap %d MiB at most, %d before", crowd, took, each, here, most>>20, before>>20)
	if here > 250 {
		t.Errorf("the source keeps %d bytes of a pod, want at most 250", here)
	}
	if took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	c.mu.Lock()
	updates := c.updates
	c.mu.Unlock()
	p.Kubectl("", "label", "-n", "shop", "pod", crowdPod(7).Name, "canary=yes")
	c.sees(p, "the label is known", func() bool {
		return c.pods[policy.Name{Namespace: "shop", Name: crowdPod(7).Name}].Labels["canary"] == "yes"
	})
	if c.updates != updates+1 || len(c.pods) != 1 {
		t.Errorf("a label of one pod came in %d Updates with %d pods", c.updates-updates, len(c.pods))
	}
}
