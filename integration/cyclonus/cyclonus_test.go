package cyclonus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mattfenwick/cyclonus/pkg/generator"

	"github.com/podwall/podwall/integration/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, laboratories) }

const (
	laboratories = 3 // work at the same time
	// settling is how long the kernel may take to be as policy says: a change in
	// the directory counts within a second, and a loaded machine may take its time.
	settling = 20 * time.Second
)

// namespaces and the pods in each are cyclonus's own.
var (
	namespaces = []string{"x", "y", "z"}
	podNames   = []string{"a", "b", "c"}
)

// Every case that cyclonus generates passes.
func TestGeneratedCases(t *testing.T) {
	labs := make(chan *laboratory, laboratories)
	for i := range laboratories {
		labs <- newLaboratory(t, fmt.Sprint("cyclonus-", i))
	}
	cases := generator.NewTestCaseGenerator(true, special.String(), namespaces, nil, nil).GenerateAllTestCases()
	if len(cases) < 230 {
		t.Errorf("cyclonus generates %d cases, want 230 at least", len(cases))
	}
	var steps tally
	t.Run("case", func(t *testing.T) {
		for i, c := range cases {
			t.Run(fmt.Sprintf("%03d %s", i+1, c.Description), func(t *testing.T) {
				t.Parallel()
				l := <-labs
				defer func() { labs <- l }()
				ctx, cancel := context.WithTimeout(t.Context(), 10*settling)
				defer cancel()
				labtest.Must(t, l.reset(ctx))
				for n, step := range c.Steps {
					if err := l.take(ctx, step); err != nil {
						t.Fatalf("step %d of %d: %v\n%s", n+1, len(c.Steps), err, l.policies())
					}
					steps.add(l.flows())
				}
			})
		}
	})
	t.Log(&steps)
}

// A tally counts what was tried.
type tally struct {
	mu                    sync.Mutex
	steps, allow, forbade int
}

func (n *tally) add(allowed, denied int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.steps, n.allow, n.forbade = n.steps+1, n.allow+allowed, n.forbade+denied
}

// String is for the test's log.
func (n *tally) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("%d steps; %d flows were answered and %d were not, as they should", n.steps, n.allow, n.forbade)
}
