package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/cluster"
)

// abandon, in the environment, makes the test binary bring a cluster up, say its
// name and wait to be killed.
const abandon = "PODWALL_E2E_ABANDON"

// abandoned is the whole life of that binary.
func abandoned() int {
	c, err := cluster.Up(context.Background(), cluster.Config{Nodes: 1, Podwall: cluster.Absent})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(filepath.Base(c.Logs()))
	select {}
}

// TestNothingIsLeft looks for what clusters leave behind: one whose driver is
// killed, and one that goes in peace, which cleans up after the first.
func TestNothingIsLeft(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), abandon+"=1")
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed, err := bufio.NewReader(said).ReadString('\n')
	if killed = strings.TrimSpace(killed); killed == "" {
		t.Fatalf("the other driver brought no cluster up: %v", err)
	}
	if len(processes(t, killed)) == 0 {
		t.Fatal("found none of the cluster's processes while it runs")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(10 * time.Second); len(processes(t, killed)) > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}

	c, err := cluster.Up(t.Context(), cluster.Config{Nodes: 1, Podwall: cluster.Absent})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{killed, filepath.Base(c.Logs())} {
		for _, left := range leftovers(t, name) {
			t.Errorf("cluster %s left %s", name, left)
		}
	}
	if err := os.RemoveAll(c.Logs()); err != nil {
		t.Error(err)
	}
}

// leftovers lists the processes, mounts, cgroups and files of a cluster.
func leftovers(t *testing.T, name string) []string {
	t.Helper()
	all := processes(t, name)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, name) {
			all = append(all, "mount "+line)
		}
	}
	tools, err := cluster.FindTools()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/*" + name + "*", filepath.Join(string(tools), "run", name)} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	return all
}

// processes lists those whose command line names the cluster.
func processes(t *testing.T, name string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), name) { // an error: it has just ended
			all = append(all, "process "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}
