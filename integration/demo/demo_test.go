package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asDemo makes the test's binary the demo.
const asDemo = "PODWALL_TEST_AS_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
	}
	os.Exit(m.Run())
}

// start runs the demo in a process group of its own, as a shell does.
func start(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asDemo+"=1", "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	return cmd, &out
}

func TestDemoShowsTheMainJob(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	cmd, out := start(t)
	err := cmd.Wait()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %s, want less than a minute", took)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("it is in colour though nobody looks")
	}
	for _, say := range []string{
		"all 42 are as they should be", "0 bytes in the second since", "CNI error 11", "shop/web-to-api", "table inet podwall", "nothing of it is left",
	} {
		if !strings.Contains(out.String(), say) {
			t.Errorf("it does not say %q:\n%s", say, out)
		}
	}
}

// However the demo ends, its machine ends with it.
func TestDemoLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(pid int) error{
		"Ctrl-C":           func(pid int) error { return syscall.Kill(-pid, syscall.SIGINT) },
		"terminated":       func(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) },
		"killed":           func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) },
		"terminal hung up": func(pid int) error { return syscall.Kill(-pid, syscall.SIGHUP) },
		"interrupted for good": func(pid int) error {
			return errors.Join(syscall.Kill(-pid, syscall.SIGINT), syscall.Kill(-pid, syscall.SIGINT))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, out := start(t)
			machine := find(t, cmd.Process.Pid)
			within(t, func() error { // so that there is something to leave behind
				if n := len(processes(t, machine)); n < 2 {
					return fmt.Errorf("%d processes run on the demo's machine, want podwalld among them: %s", n, machine)
				}
				return nil
			})
			if err := end(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Errorf("the demo ends as if it had been seen to the end:\n%s", out)
			}
			within(t, func() error {
				if left := processes(t, machine); left != nil {
					return fmt.Errorf("processes %v are left", left)
				}
				return nil
			})
			nothingIn(t, "/run/netns/*demo*", "/run/node", filepath.Join(tmpdir(cmd), "*"))
			if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), "cni-demo") {
				t.Errorf("mounts are left (%v):\n%s", err, b)
			}
		})
	}
}

// find returns the process namespace of the demo's machine.
func find(t *testing.T, pid int) string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	var found string
	within(t, func() error {
		children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil {
			return err
		}
		for _, file := range children {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for _, child := range strings.Fields(string(b)) {
				if ns, err := os.Readlink("/proc/" + child + "/ns/pid"); err == nil && ns != own {
					found = ns
					return nil
				}
			}
		}
		return errors.New("the demo has no machine of its own")
	})
	return found
}

// processes returns those in a process namespace.
func processes(t *testing.T, ns string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for _, l := range links {
		if at, err := os.Readlink(l); err == nil && at == ns {
			in = append(in, filepath.Base(filepath.Dir(filepath.Dir(l))))
		}
	}
	return in
}

// tmpdir is the demo's directory for temporary files.
func tmpdir(cmd *exec.Cmd) string {
	return strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")
}

func nothingIn(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if left, err := filepath.Glob(p); err != nil || left != nil {
			t.Errorf("left: %v %v", left, err)
		}
	}
}

// within waits until a fact holds.
func within(t *testing.T, fact func() error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := fact()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
