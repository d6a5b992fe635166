// Package probe finds out what the kernel can do for podwall, by trying.
//
// # Contract
//
// Kernel installs rules in a network namespace of its own, which goes again, and
// takes what a kernel of that age refuses for what it can't do: the hook at the
// egress of a device (Linux 5.16), and tables that belong to one process and
// outlive it (6.9). Versions are not asked: distributions add the one to older
// kernels and leave the other out of newer ones.
//
// What could not be tried is an error, and nothing is said to be missing then:
// rules that the kernel turns out not to take make an ADD fail, which is closed.
package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// Hold is the only argument of a podwalld that is started to keep a namespace
// open: it waits until its standard input ends.
const Hold = "hold-namespace"

// Lacks says what the kernel refused, and its words; empty if it did not.
type Lacks struct {
	Guard string // the hook at the egress of a device
	Owner string // tables with the flags owner and persist
	Log   string // handing packets to a process, by NFLOG
}

// Kernel tries the kernel with the given function, nft.Apply, in the namespace
// that open makes.
func Kernel(open func() (netns *os.File, done func(), err error), apply Apply) (Lacks, error) {
	netns, done, err := open()
	if err != nil {
		return Lacks{}, fmt.Errorf("try the kernel: %w", err)
	}
	defer done()
	var l Lacks
	for _, try := range []struct {
		rules ruleset.RuleSet
		lacks *string
	}{
		{ruleset.RuleSet{RawSockets: true}, nil}, // what podwall can't do without
		{ruleset.RuleSet{}, &l.Guard},
		{ruleset.RuleSet{RawSockets: true, Owned: true}, &l.Owner},
		{ruleset.RuleSet{RawSockets: true, Log: ruleset.Logging{Drops: true}}, &l.Log},
	} {
		_, _, err := apply(int(netns.Fd()), "lo", try.rules, nil)
		switch {
		case err == nil:
		case try.lacks != nil && refused(err):
			*try.lacks = err.Error()
		default:
			return Lacks{}, fmt.Errorf("try the kernel: %w", err)
		}
	}
	return l, nil
}

// Apply is nft.Apply's type.
type Apply func(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error)

// refused reports whether err is what a kernel says that does not know what it
// is asked for. Other errors, such as ENOMEM, say nothing about that.
func refused(err error) bool {
	for _, no := range []error{unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// Scratch makes a network namespace, which a child of this process holds until
// done is called.
func Scratch() (netns *os.File, done func(), err error) {
	child := exec.Command("/proc/self/exe", Hold)
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := child.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := child.Start(); err != nil {
		return nil, nil, fmt.Errorf("start a process in a network namespace of its own: %w", err)
	}
	end := func() {
		_ = stdin.Close()
		_ = child.Wait() // it has nothing to say
	}
	netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid))
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("open a child's network namespace: %w", err)
	}
	return netns, func() { _ = netns.Close(); end() }, nil
}

// Wait is what the child of Scratch does.
func Wait(stdin io.Reader) { _, _ = io.Copy(io.Discard, stdin) }
