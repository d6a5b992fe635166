package kube

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podwall/podwall/internal/policy"
)

// crowdPod is one of many: of a Deployment of ten, on one of a hundred nodes.
func crowdPod(i int) *corev1.Pod {
	app := fmt.Sprintf("app-%d", i/10)
	container := func(name string) corev1.Container {
		c := corev1.Container{Name: name, Image: "registry.example.org/team/" + app + ":v1.2.3@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			Ports: []corev1.ContainerPort{{Name: name + "-http", ContainerPort: 8080}}}
		for j := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", j), Value: "a value of some length, as they have"})
		}
		return c
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-7c9f8d6b5-%05d", app, i), Namespace: "shop", Labels: map[string]string{
			"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "pod-template-hash": "7c9f8d6b5", "team": "blue", "tier": "backend"}},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", i%100), Containers: []corev1.Container{container("main"), container("sidecar")}},
	}
}

func address(i int) string { return fmt.Sprintf("10.%d.%d.%d", 64+i/62500, i/250%250, 1+i%250) }

// live is the heap after a collection.
func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A pod as it arrives, and what it leaves behind.
func BenchmarkPod(b *testing.B) {
	const crowd = 100_000
	for b.Loop() {
		before := live()
		m := newLedger(nil, nil).mirror(kinds("here")[2])
		published := make([]policy.Pod, 0, crowd)
		for i := range crowd {
			p := crowdPod(i)
			p.UID, p.ResourceVersion = types.UID(fmt.Sprintf("01234567-89ab-cdef-0123-%012d", i)), fmt.Sprint(i)
			p.Status.PodIPs = []corev1.PodIP{{IP: address(i)}}
			o, err := m.read(p)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Add(o); err != nil {
				b.Fatal(err)
			}
			published = append(published, o.value.(policy.Pod))
		}
		clear(m.ledger.news)
		m.ledger.news = nil
		all := live()
		b.ReportMetric(float64(all-before)/crowd, "bytes/pod")
		runtime.KeepAlive(published)
		published = nil
		b.ReportMetric(float64(live()-before)/crowd, "bytes/pod-here")
		runtime.KeepAlive(m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/crowd, "ns/pod")
}
