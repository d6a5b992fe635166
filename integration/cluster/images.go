package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/podwall/podwall/integration/cluster/archive"
)

// The images that every node has.
const (
	// Probe runs the program of images/probe.
	Probe = "localhost/probe:1"
	// Agnhost runs Kubernetes' own test server, and has a shell.
	Agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"

	pauseImage = "registry.k8s.io/pause:3.10.1"
)

// Prepare builds the programs of this module that machines and pods run, and the
// images. What parts builds must be there.
func (t Tools) Prepare(ctx context.Context) error {
	root, err := Repository()
	if err != nil {
		return err
	}
	for name, dir := range map[string]string{"init": "init", "pause": "images/pause", "probe": "images/probe"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", t.Path(name), "./"+dir)
		cmd.Dir = filepath.Join(root, "integration/cluster")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return t.writeImages(ctx)
}

func (t Tools) writeImages(ctx context.Context) error {
	dir := filepath.Join(string(t), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	shell, err := busybox(ctx)
	if err != nil {
		return err
	}
	pause := archive.Image{
		Tags:       []string{pauseImage, "registry.k8s.io/pause:3.10.2"}, // the second is the suites'
		Entrypoint: []string{"/pause"},
		User:       "65535:65535",
		Files:      []archive.File{{Path: "/pause", From: t.Path("pause")}},
	}
	probe := archive.Image{
		Tags:       []string{Probe},
		Entrypoint: []string{"/probe"},
		Files:      append([]archive.File{{Path: "/probe", From: t.Path("probe")}}, shell...),
		Dirs:       []string{"/tmp"},
	}
	agnhost := archive.Image{
		Tags:       []string{Agnhost, "registry.k8s.io/e2e-test-images/agnhost:2.43"}, // the second is cyclonus'
		Entrypoint: []string{"/agnhost"},
		Args:       []string{"pause"},
		Files:      append([]archive.File{{Path: "/agnhost", From: t.Path("agnhost")}}, shell...),
		Dirs:       []string{"/tmp", "/uploads"},
	}
	return errors.Join(pause.Write(filepath.Join(dir, "pause.tar")), probe.Write(filepath.Join(dir, "probe.tar")),
		agnhost.Write(filepath.Join(dir, "agnhost.tar")))
}

// busybox is a shell and its tools, and the users that the suites expect.
func busybox(ctx context.Context) ([]archive.File, error) {
	const program = "/bin/busybox"
	applets, err := output(exec.CommandContext(ctx, program, "--list"))
	if err != nil {
		return nil, fmt.Errorf("busybox-static is missing: %w", err)
	}
	files := []archive.File{
		{Path: program, From: program},
		{Path: "/etc/passwd", Text: "root:x:0:0:root:/root:/bin/sh\n"},
		{Path: "/etc/group", Text: "root:x:0:\n"},
	}
	for _, name := range strings.Fields(applets) {
		if name != "busybox" {
			files = append(files, archive.File{Path: "/bin/" + name, Link: program})
		}
	}
	return files, nil
}
