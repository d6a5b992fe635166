package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// noSCTP is why some upstream cases don't run.
const noSCTP = "needs SCTP sockets, which this kernel does not have"

// A spec is what ginkgo's report says of one case.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText, State     string
	Failure                 struct{ Message string }
	RunTime                 int64

	CapturedGinkgoWriterOutput string
}

// name is the words that tell the case from others of its suite.
func (s spec) name() string {
	return strings.Join(append(s.ContainerHierarchyTexts[1:], s.LeafNodeText), " ")
}

// netpol runs Kubernetes' own suite for NetworkPolicy, four cases at a time.
func netpol(t *testing.T, c *cluster.Cluster) { upstream(t, c, "Netpol", "SCTPConnectivity", 47) }

// upstream runs the cases of Kubernetes' test binary whose names match focus and
// not without. It wants as many as there are in this version, no fewer.
func upstream(t *testing.T, c *cluster.Cluster, focus, without string, want int) {
	report := filepath.Join(c.Logs(), focus+".json")
	cmd := c.Control.Command(t.Context(), "ginkgo", "run", "--procs=4", "--focus="+focus, "--skip="+without, "--no-color", "--silence-skips",
		"--succinct", "--output-dir="+c.Logs(), "--json-report="+filepath.Base(report), "--junit-report="+focus+".xml",
		c.Tool("e2e.test"), "--", "--kubeconfig="+c.Kubeconfig(), "--kubectl-path="+c.Tool("kubectl"), "--provider=local",
		fmt.Sprintf("--num-nodes=%d", len(c.Nodes)), "--prepull-images=false", "--disable-log-dump")
	log, err := os.Create(filepath.Join(c.Logs(), focus+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	ended := cmd.Run() // an error where a case failed: the report says which
	specs, err := readReport(report)
	if err != nil {
		t.Fatalf("%s: %v; ginkgo: %v; its output is in %s", focus, err, ended, log.Name())
	}
	ran := 0
	for _, s := range specs {
		if !strings.Contains(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "), focus) {
			continue
		}
		if s.State != "skipped" {
			ran++
		}
		t.Run(s.name(), func(t *testing.T) { s.judge(t) })
	}
	if ran != want {
		t.Errorf("%d cases ran, want %d", ran, want)
	}
}

// judge makes a test of what ginkgo found.
func (s spec) judge(t *testing.T) {
	switch s.State {
	case "passed":
	case "skipped":
		t.Skip(noSCTP)
	default:
		t.Errorf("%s: %s\n%s", s.State, s.Failure.Message, s.CapturedGinkgoWriterOutput)
	}
}

// readReport reads the cases of ginkgo's JSON report.
func readReport(file string) ([]spec, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(b, &suites); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	var all []spec
	for _, s := range suites {
		for _, r := range s.SpecReports {
			if len(r.ContainerHierarchyTexts) > 0 { // not BeforeSuite and the like
				all = append(all, r)
			}
		}
	}
	return all, nil
}
