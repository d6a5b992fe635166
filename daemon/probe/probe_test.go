package probe

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == Hold {
		Wait(os.Stdin)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// This machine's kernel has everything, and its own namespace stays as it is.
func TestThisKernel(t *testing.T) {
	before, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var there os.FileInfo
	spied := func(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
		there, _ = os.Stat(fmt.Sprintf("/proc/self/fd/%d", netns))
		return nft.Apply(netns, iface, rs, last)
	}
	if lacks, err := Kernel(Scratch, spied); err != nil || lacks != (Lacks{}) {
		t.Errorf("lacks %+v, %v", lacks, err)
	}
	if there == nil || os.SameFile(there, before) {
		t.Error("the rules were tried in this process's own namespace")
	}
}

func TestWhatKernelsSay(t *testing.T) {
	guard := func(rs ruleset.RuleSet) bool { return len(rs.Guard("lo").Blocks) > 0 }
	owner := func(rs ruleset.RuleSet) bool { return rs.Owned }
	all := func(ruleset.RuleSet) bool { return true }
	tests := []struct {
		name         string
		refuse       func(ruleset.RuleSet) bool
		errno        unix.Errno
		guard, owner bool // lacking
		fails        bool
	}{
		{"one before 5.16", guard, unix.EOPNOTSUPP, true, false, false},
		{"one without the family", guard, unix.EAFNOSUPPORT, true, false, false},
		{"one before 6.9", owner, unix.EOPNOTSUPP, false, true, false},
		{"one before both", func(rs ruleset.RuleSet) bool { return guard(rs) || owner(rs) }, unix.EINVAL, true, true, false},
		{"one without nftables", all, unix.EPROTONOSUPPORT, false, false, true},
		{"one without memory", guard, unix.ENOMEM, false, false, true},
		{"one that permits nothing", owner, unix.EPERM, false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			open := func() (*os.File, func(), error) {
				f, err := os.Open(os.DevNull)
				return f, func() { f.Close() }, err
			}
			got, err := Kernel(open, func(_ int, _ string, rs ruleset.RuleSet, _ *nft.Known) (nft.Known, bool, error) {
				if tt.refuse(rs) {
					return nft.Known{}, false, fmt.Errorf("apply: %w", tt.errno)
				}
				return nft.Known{}, true, nil
			})
			if (got.Guard != "") != tt.guard || (got.Owner != "") != tt.owner || (err != nil) != tt.fails {
				t.Errorf("lacks %+v, %v; want %+v", got, err, tt)
			}
		})
	}
}

func TestNamespaceThatCantBeMade(t *testing.T) {
	no := errors.New("no")
	_, err := Kernel(func() (*os.File, func(), error) { return nil, nil, no }, nft.Apply)
	if !errors.Is(err, no) {
		t.Errorf("Kernel: %v, want the cause", err)
	}
}
