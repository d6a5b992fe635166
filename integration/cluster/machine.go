package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"crypto/rand"
)

// A Machine is a set of namespaces with a first process of its own, and a disk.
// All that runs in it ends with PowerOff, or with this process.
type Machine struct {
	Name string

	tools Tools
	disk  string // what outlives PowerOff
	logs  string
	keep  []string // directories that are on its disk
	shown []string // directories that it has as this computer has them

	init  *exec.Cmd
	alive io.Closer // init's standard input
	procs map[string]*process
}

// tunables are kernel settings that a kubelet would change for the whole
// computer. A machine gets files that say already what the kubelet wants.
var tunables = [...]struct{ path, value string }{
	{"/proc/sys/kernel/panic", "10"},
	{"/proc/sys/kernel/panic_on_oops", "1"},
	{"/proc/sys/vm/overcommit_memory", "1"},
	{"/proc/sys/vm/panic_on_oom", "0"},
	{"/proc/sys/kernel/keys/root_maxkeys", "1000000"},
	{"/proc/sys/kernel/keys/root_maxbytes", "25000000"},
}

type bind struct{ From, To string }

// PowerOn starts the machine: no process but init, no network but loopback, and
// on its disk what was there at the last PowerOff.
func (m *Machine) PowerOn() error {
	binds, err := m.binds()
	if err != nil {
		return fmt.Errorf("%s: disk: %w", m.Name, err)
	}
	setup, err := json.Marshal(map[string]any{"hostname": m.Name, "mounts": binds, "shown": m.shown})
	if err != nil {
		return err
	}
	cmd := exec.Command(m.tools.Path("init"), string(setup))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, // an interrupt is for the tests, which then end the machine
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	alive, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: start: %w", m.Name, err)
	}
	m.init, m.alive, m.procs = cmd, alive, make(map[string]*process)
	if line, _ := bufio.NewReader(said).ReadString('\n'); line != "ready\n" {
		return errors.Join(fmt.Errorf("%s: init: %s", m.Name, &stderr), m.PowerOff())
	}
	return nil
}

// binds prepares what the machine's init mounts.
func (m *Machine) binds() ([]bind, error) {
	var all []bind
	for _, dir := range m.keep {
		b := bind{From: filepath.Join(m.disk, dir), To: dir}
		all = append(all, b)
		if err := errors.Join(os.MkdirAll(b.From, 0o755), os.MkdirAll(b.To, 0o755)); err != nil {
			return nil, err
		}
	}
	files := map[string]string{"/proc/sys/kernel/random/boot_id": bootID()}
	for _, t := range tunables {
		files[t.path] = t.value
	}
	for path, value := range files {
		b := bind{From: filepath.Join(m.disk, "kernel", filepath.Base(path)), To: path}
		all = append(all, b)
		if err := errors.Join(os.MkdirAll(filepath.Dir(b.From), 0o755), os.WriteFile(b.From, []byte(value+"\n"), 0o644)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// bootID makes what the kernel makes once a boot.
func bootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// PowerOff ends every process of the machine at once, as pulling the plug does.
// Its disk stays. Again is harmless.
func (m *Machine) PowerOff() error {
	if m.init == nil {
		return nil
	}
	_ = m.init.Process.Kill() // may have ended
	_ = m.alive.Close()
	_ = m.init.Wait() // it was killed, and says so
	for _, p := range m.procs {
		<-p.done
	}
	m.init = nil
	return nil
}

// Pid is that of the machine's first process, here.
func (m *Machine) Pid() int { return m.init.Process.Pid }

// Root is where the machine's files are seen from here.
func (m *Machine) Root(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.Pid()), "root", path)
}

// Command is exec.CommandContext in the machine.
func (m *Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", m.enter(argv)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Env = append(os.Environ(), "PATH="+m.tools.bin()+":"+os.Getenv("PATH"))
	return cmd
}

func (m *Machine) enter(argv []string) []string {
	return append([]string{"-t", strconv.Itoa(m.Pid()), "-m", "-n", "-u", "-i", "-p", "--"}, argv...)
}

// Exec runs a program in the machine and returns what it prints. An error says
// what it printed to its standard error.
func (m *Machine) Exec(ctx context.Context, argv ...string) (string, error) {
	return output(m.Command(ctx, argv...))
}

// Script runs a shell script in the machine, which ends at its first error.
func (m *Machine) Script(ctx context.Context, script string) error {
	_, err := m.Exec(ctx, "sh", "-euc", script)
	return err
}

// output runs cmd. Its error names the program and holds its standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", commandLine(cmd.Args), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// commandLine is the part of args that a reader wants to see.
func commandLine(args []string) string {
	for i, a := range args {
		if a == "--" && args[0] == "nsenter" {
			args = args[i+1:]
			break
		}
	}
	line := strings.Join(args, " ")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return line
}
