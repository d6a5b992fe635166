// Package logtest is where a log goes that a test reads while it is written.
//
// # Contract
//
// The zero Buffer is empty and ready. Its methods may be called from any
// goroutine.
package logtest

import (
	"bytes"
	"sync"
)

// A Buffer is a bytes.Buffer that may be written to while it is read.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p and never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
