package nft_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// memoryGroups is where the first hierarchy of control groups counts memory: the
// only one that can count it for a single thread, and refuse it without killing.
const memoryGroups = "/sys/fs/cgroup/memory"

// memoryGroup makes a control group that has so much memory, until the test ends.
func memoryGroup(t *testing.T, limit int) (set func(name, value string) error) {
	t.Helper()
	dir, err := os.MkdirTemp(memoryGroups, "podwall-nft-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // once the thread has ended
		err := os.Remove(dir)
		for end := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(end); err = os.Remove(dir) {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	set = func(name, value string) error { return os.WriteFile(filepath.Join(dir, name), []byte(value), 0) }
	if err := errors.Join(set("memory.limit_in_bytes", strconv.Itoa(limit)), set("memory.oom_control", "1")); err != nil {
		t.Fatal(err)
	}
	return set
}

// The kernel has no memory for a set: nothing of the transaction holds, the rules
// before stand, and the error says why. With memory it works. Nobody injects
// that: the thread which asks is in a control group that has too little.
func TestNoMemoryForASet(t *testing.T) {
	if _, err := os.Stat(memoryGroups + "/memory.limit_in_bytes"); err != nil {
		t.Log("this machine has no control groups that refuse memory to a thread")
		return
	}
	ns := pod(t)
	now := apply(t, ns, samples["peers of both families, blocks and ports"], nil)
	var many []netip.Prefix
	for i := range 50_000 { // 80 bytes each
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 15), byte(i >> 7), byte(i << 1)}), 32))
	}
	big := ruleset.RuleSet{Addresses: both, Ingress: isolated(rule("big", ruleset.Accept, ruleset.NewPeers(many), tcp(80)...)), Egress: open}
	set := memoryGroup(t, 2<<20)
	err := ns.Do(func() error {
		if err := set("tasks", strconv.Itoa(unix.Gettid())); err != nil {
			return err
		}
		_, _, err := nft.Apply(ns.FD(), "eth0", big, now)
		return err
	})
	if !errors.Is(err, unix.ENOMEM) {
		t.Fatalf("Apply without memory: %v, want %v", err, unix.ENOMEM)
	}
	if diffs, _, err := nft.Check(ns.FD(), "eth0", *now); err != nil || len(diffs) > 0 {
		t.Errorf("the rules before do not stand: %v, %v", diffs, err)
	}
	apply(t, ns, big, now)
}
