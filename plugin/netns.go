package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/internal/nft"
)

// openNetns opens a pod's network namespace.
func openNetns(path string) (*os.File, error) {
	// O_NONBLOCK: opening a pipe would wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := nft.CheckNetns(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
