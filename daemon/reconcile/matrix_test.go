package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/netnstest"
)

// The matrix knows what only the node knows: the addresses of ADD, and pods that
// no manifest names.
func TestMatrix(t *testing.T) {
	b := newBench(t)
	web, batch := netnstest.New(t), netnstest.New(t)
	b.add(t, web, pod(web, "web", "10.0.0.2"))
	b.add(t, batch, pod(batch, "batch", "10.0.0.3"))
	m, err := b.Matrix(api.MatrixRequest{Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]string{}
	for _, c := range m.Cells {
		verdicts[c.From+" "+c.To] = c.Verdict
	}
	if verdicts["shop/batch shop/web"] != explain.Deny || verdicts["shop/web shop/batch"] != explain.Allow {
		t.Errorf("verdicts %v", verdicts)
	}
	if _, err := b.Matrix(api.MatrixRequest{Namespaces: []string{"shopp"}}); !errors.Is(err, api.ErrNotFound) || !strings.Contains(err.Error(), "did you mean shop?") {
		t.Errorf("a namespace that is not: %v", err)
	}
}

func TestMatrixHasItsLimits(t *testing.T) {
	b := newBench(t)
	for i := range widest + 1 {
		b.mu.Lock()
		record := attached('a', fmt.Sprint("p", i), "")
		record.ContainerID = fmt.Sprint(i)
		b.attach(&attachment{record: record})
		b.mu.Unlock()
	}
	if _, err := b.Matrix(api.MatrixRequest{}); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "-n") {
		t.Errorf("too many pods: %v", err)
	}
}

// A matrix is of one version: a change in the middle begins it anew.
func TestMatrixIsOfOneVersion(t *testing.T) {
	b := newBench(t)
	s, version, err := b.survey(api.MatrixRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, same, err := b.step(s, version); err != nil || !same {
		t.Fatalf("same %t, %v", same, err)
	}
	b.SetNodeEgress(true)
	if _, same, _ := b.step(s, version); same {
		t.Error("a step at another version")
	}
}
