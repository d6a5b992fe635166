package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// patience is how long podwalld may take to become ready or to end.
const patience = 10 * time.Second

// Launch starts podwalld on the node, with the node's paths and any further
// flags, and does not wait until it is ready. Its log is appended to LogFile.
func (n *Node) Launch(flags ...string) error {
	if n.Running() {
		return errors.New("start podwalld: it runs")
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // podwalld has its own descriptor
	words := append(slices.Clone(n.Before), n.Binary("podwalld"),
		"--socket", n.Socket(),
		"--state-dir", n.StateDir(),
		"--policy-dir", n.Manifests(),
		"--cni-cache-dir", n.cache,
		"--node-name", n.Name)
	words = append(words, flags...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.Netns.Start(cmd); err != nil {
		return fmt.Errorf("start podwalld (did make build run?): %w", err)
	}
	n.daemon, n.exited = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(done)
	}(n.exited)
	return nil
}

// Start is Launch, and waits until podwalld is ready.
func (n *Node) Start(ctx context.Context, flags ...string) error {
	if err := n.Launch(flags...); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// Ready waits until podwalld serves ADD and knows its policies.
func (n *Node) Ready(ctx context.Context) error {
	_, err := n.Policyctl(ctx, "status", "--wait", patience.String())
	if err != nil {
		return fmt.Errorf("wait for podwalld: %w\n%s", err, n.LogTail())
	}
	return nil
}

// Running reports whether podwalld was started and has not ended.
func (n *Node) Running() bool {
	if n.daemon == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// Kill ends podwalld as the kernel would when memory is short: with SIGKILL.
// Without podwalld it does nothing.
func (n *Node) Kill() error {
	if n.daemon == nil {
		return nil
	}
	err := n.daemon.Process.Kill()
	<-n.exited
	n.daemon = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Stop ends podwalld with SIGTERM, and returns an error unless it exits with
// status 0 in time.
func (n *Node) Stop() error {
	cmd := n.daemon
	if cmd == nil {
		return errors.New("stop podwalld: not running")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop podwalld: %w", err)
	}
	select {
	case <-n.exited:
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("stop podwalld: still running after %s", patience), n.Kill())
	}
	n.daemon = nil
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("stop podwalld: exit status %d\n%s", code, n.LogTail())
	}
	return nil
}

// Pid is podwalld's process id, or 0.
func (n *Node) Pid() int {
	if n.daemon == nil {
		return 0
	}
	return n.daemon.Process.Pid
}

// LogFile is where podwalld's log goes.
func (n *Node) LogFile() string { return filepath.Join(n.Dir, "podwalld.log") }

// LogTail returns the end of podwalld's log, for the messages of failures.
func (n *Node) LogTail() string {
	const most = 4 << 10
	f, err := os.Open(n.LogFile())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // at worst the whole log is returned
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
