package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How podwalld uses memory, in one place. What it knows of a large cluster stays all
// day and changes little, so little garbage may gather, at the price of collections
// that a node hardly notices. Whoever sets GOGC or GOMEMLIMIT knows better.
const (
	// garbage is how much of it may gather, in percent of what is in use.
	garbage = 40
	// What reading a cluster took is given back when this long has passed since the
	// daemon was ready, and what other peaks took each time that the second has.
	trimFirst, trimEvery = 3 * time.Second, 20 * time.Second
	// spare is how much is not worth the trouble.
	spare = 4 << 20
)

// saveMemory sets how much garbage may gather, unless the environment does.
func saveMemory(getenv func(string) string) {
	if getenv("GOGC") == "" && getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(garbage)
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
	}
}

// held is how much memory the heap has from the kernel.
func held() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64() + sample[1].Value.Uint64()
}
