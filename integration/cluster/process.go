package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// patience is how long a process may take to end when it is asked to.
const patience = 10 * time.Second

// A process is one that a machine keeps running until it is stopped. Its output
// is in the log MACHINE-NAME.log.
type process struct {
	argv  []string
	group int // of nsenter and the program itself
	done  chan struct{}
}

// Start starts a program that goes on in the machine, under a name.
func (m *Machine) Start(name string, argv ...string) error {
	if p := m.procs[name]; p != nil && p.running() {
		return fmt.Errorf("%s: start %s: runs already", m.Name, name)
	}
	log, err := os.OpenFile(m.Log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("nsenter", m.enter(argv)...)
	cmd.Env = append(os.Environ(), "PATH="+m.tools.bin()+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: start %s: %w", m.Name, name, err)
	}
	p := &process{argv: argv, group: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its log says why
		close(p.done)
	}()
	m.procs[name] = p
	return nil
}

// Log is the file with the output of a program that Start started.
func (m *Machine) Log(name string) string {
	return filepath.Join(m.logs, m.Name+"-"+name+".log")
}

// Running says whether a program that was started is still there.
func (m *Machine) Running(name string) bool {
	p := m.procs[name]
	return p != nil && p.running()
}

// Stop asks a program to end and waits until it has, or kills it at last.
func (m *Machine) Stop(name string) error {
	return m.end(name, syscall.SIGTERM)
}

// Kill ends a program without asking it.
func (m *Machine) Kill(name string) error {
	return m.end(name, syscall.SIGKILL)
}

// Restart stops a program and starts it again with the same arguments.
func (m *Machine) Restart(name string) error {
	if err := m.Stop(name); err != nil {
		return err
	}
	return m.Start(name, m.procs[name].argv...)
}

func (m *Machine) end(name string, s syscall.Signal) error {
	p := m.procs[name]
	if p == nil {
		return fmt.Errorf("%s: stop %s: never started", m.Name, name)
	}
	// Once: a second SIGTERM tells Kubernetes' programs to drop everything.
	if err := p.signal(s); err != nil {
		return fmt.Errorf("%s: stop %s: %w", m.Name, name, err)
	}
	for deadline := time.Now().Add(patience); p.running(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = p.signal(syscall.SIGKILL) // it ran a moment ago
		}
	}
	<-p.done
	return nil
}

// running says whether any process of the group is left: nsenter may have ended
// before the program that it started.
func (p *process) running() bool {
	return syscall.Kill(-p.group, 0) == nil
}

// signal sends s to the group. One that has ended is fine.
func (p *process) signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.group, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
