package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf is the CPU time that a process has used.
func cpuOf(pid int) time.Duration {
	const sched = 2 // CPUCLOCK_SCHED, of a process: how clock_getcpuclockid(3) makes its answer
	var ts unix.Timespec
	_ = unix.ClockGettime(int32(^pid<<3|sched), &ts) // it is this process' child
	return time.Duration(ts.Nano())
}

// memoryOf returns a process' resident memory, now and at most, in bytes.
func memoryOf(pid int) (now, most float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64) // else it is not one of these lines
		switch f[0] {
		case "VmRSS:":
			now = kib * 1024
		case "VmHWM:":
			most = kib * 1024
		}
	}
	return now, most, nil
}
