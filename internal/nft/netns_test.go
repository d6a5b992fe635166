package nft_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
)

// Rules in the wrong namespace cut off the node, or nobody.
func TestCheckNetns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, want string }{
		{"another network namespace", netnstest.New(t).Path(), ""},
		{"a regular file", file, "a file of another kind"},
		{"a namespace of mounts", "/proc/self/ns/mnt", "one of another kind"},
		{"the namespace of this process", "/proc/self/ns/net", "the node's own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := os.Open(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := ""
			if err := nft.CheckNetns(f); err != nil {
				got = err.Error()
			}
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("CheckNetns(%s) = %q, want %q", tt.path, got, tt.want)
			}
		})
	}
}
