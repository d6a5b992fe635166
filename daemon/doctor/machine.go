package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/internal/nft"
)

// ThisMachine returns the Node that this process runs on, for its paths and Ask
// to be set.
func ThisMachine() Node {
	return Node{
		Root:         "/",
		Privileged:   os.Geteuid() == 0,
		Probe:        func() (probe.Lacks, error) { return probe.Kernel(probe.Scratch, nft.Apply) },
		Run:          run,
		Synchronised: synchronised,
		Free:         free,
		Now:          time.Now,
	}
}

// run runs a program with nothing in its environment but where programs are. A
// CNI plugin without a command says who it is, on stderr.
func run(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// synchronised asks the kernel what adjtimex(2) says of the clock.
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	const staUnsync, timeError = 0x40, 5
	return state != timeError && t.Status&staUnsync == 0, nil
}

// free is how many bytes root may still write where path is, or would be.
func free(path string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Statfs(filepath.Dir(path), &st)
	}
	return st.Bfree * uint64(st.Bsize), err
}
