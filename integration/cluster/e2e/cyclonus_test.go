package e2e

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/cluster"
)

// Tags of cyclonus' generated cases: those in which something changes while a
// policy is in force, which only a live cluster does as people do it; and what else
// is worth 20 s a case. All 230 run with real packets in integration/cyclonus.
const (
	changing = "action"
	chosen   = changing + ",example,end-port,named-port,upstream-e2e,ip-block-with-except"
)

// How many cases these are in this version, without those about SCTP.
const (
	changingCases = 7
	chosenCases   = 68
)

// cyclonus makes namespaces, pods and policies, changes them, and asks each pod for
// each other after each step.
func cyclonus(t *testing.T, c *cluster.Cluster) {
	tags, want := chosen, chosenCases
	if testing.Short() {
		tags, want = changing, changingCases
	}
	report := filepath.Join(c.Logs(), "cyclonus.xml")
	cmd := c.Control.Command(t.Context(), "cyclonus", "generate", "--include="+tags, "--exclude=sctp", "--server-protocol=TCP,UDP",
		"--destination-type=pod-ip", "--ignore-loopback", "--perturbation-wait-seconds=2", "--job-timeout-seconds=2", "--cleanup-namespaces", "--junit-results-file="+report)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig())
	log, err := os.Create(filepath.Join(c.Logs(), "cyclonus.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	ended := cmd.Run()
	cases, err := readCyclonus(report)
	if err != nil {
		t.Fatalf("%v; cyclonus: %v; its output is in %s", err, ended, log.Name())
	}
	for _, verdict := range cases {
		t.Run(strings.TrimSpace(verdict.Name), func(t *testing.T) {
			if verdict.Failure != nil {
				t.Errorf("another truth table than the policies': see %s", log.Name())
			}
		})
	}
	if len(cases) != want {
		t.Errorf("%d cases ran, want %d", len(cases), want)
	}
}

// A verdict is what cyclonus' report says of one case.
type verdict struct {
	Name    string    `xml:"name,attr"`
	Failure *struct{} `xml:"failure"`
}

func readCyclonus(file string) ([]verdict, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suite struct {
		Cases []verdict `xml:"testcase"`
	}
	if err := xml.Unmarshal(b, &suite); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return suite.Cases, nil
}
