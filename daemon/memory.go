package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How podwalld uses memory, in one place. What it knows of a large cluster stays all
// day and changes little, so little garbage may gather, at the price of collections
// that a node hardly notices. Whoever sets GOGC or GOMEMLIMIT knows better.
const (
	// garbage is how much of it may gather, in percent of what is in use, and at least
	// room: in a cluster of 10,000 pods the collections that this saves were a third of
	// what a change took (make bench, axis change).
	garbage = 40
	room    = 24 << 20
	// While a cluster is read it is less: 100,000 pods would take 220 MiB at most, and
	// not 190. What is in use grows then, so that is looked at often, and no percentage
	// is so high that much gathers before the next look.
	readGarbage, readAtMost = 20, 100
	readRoom                = 8 << 20
	readEvery               = 50 * time.Millisecond
	// What reading a cluster took is given back when this long has passed since the
	// daemon was ready, and what other peaks took each time that the second has.
	trimFirst, trimEvery = 3 * time.Second, 20 * time.Second
	// spare is how much is not worth the trouble.
	spare = 4 << 20
)

// percent is how much garbage may gather, in percent of what is in use.
func percent(inUse uint64) int { return max(garbage, int(100*room/max(inUse, 1<<20))) }

// readPercent is percent while a cluster is read.
func readPercent(inUse uint64) int {
	return min(max(readGarbage, int(100*readRoom/max(inUse, 1<<20))), readAtMost)
}

// saveMemory lets as much garbage gather as percent says, unless the environment
// says how much.
func saveMemory(percent func(inUse uint64) int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(percent(read("/gc/heap/live:bytes")))
	}
}

// trim keeps an eye on memory, and gives back what was needed only for a while, until
// ctx ends.
func (d *daemon) trim(ctx context.Context) error {
	for d.keeper.Synced() != nil {
		saveMemory(readPercent)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readEvery): // more is in use, perhaps
		}
	}
	next := time.NewTimer(trimFirst)
	defer next.Stop()
	for kept := uint64(0); ; next.Reset(trimEvery) {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C: // there may be some
		}
		d.store.Unmap()
		if held() > kept+spare {
			debug.FreeOSMemory()
			kept = held()
		}
		saveMemory(percent)
	}
}

// held is how much memory the heap has from the kernel.
func held() uint64 {
	return read("/memory/classes/heap/objects:bytes") + read("/memory/classes/heap/free:bytes")
}

// read returns one of the runtime's figures.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
