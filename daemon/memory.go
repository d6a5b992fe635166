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
	// reading is how much of it may gather while a cluster is read, in percent of what
	// is in use: of 100,000 pods 40 % would make the peak 220 MiB and not 190.
	reading = 20
	// garbage is how much may gather once the daemon is ready, and at least room: in a
	// cluster of 10,000 pods the collections that this saves were a third of what a
	// change took (make bench, axis change).
	garbage = 40
	room    = 24 << 20
	// What reading a cluster took is given back when this long has passed since the
	// daemon was ready, and what other peaks took each time that the second has.
	trimFirst, trimEvery = 3 * time.Second, 20 * time.Second
	// spare is how much is not worth the trouble.
	spare = 4 << 20
)

// percent is how much garbage may gather beside so much in use.
func percent(inUse uint64) int { return max(garbage, int(100*room/max(inUse, 1<<20))) }

// saveMemory lets percent of garbage gather, unless the environment says how much.
func saveMemory(percent int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(percent)
	}
}

// trim gives memory back that was needed only for a while, until ctx ends.
func (d *daemon) trim(ctx context.Context) error {
	if err := d.keeper.WaitReady(ctx); err != nil {
		return nil // stopped before it was ready
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
		saveMemory(percent(read("/gc/heap/live:bytes")))
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
