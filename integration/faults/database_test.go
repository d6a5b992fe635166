package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A damage is something that happens to the database while podwalld is away.
type damage struct {
	name string
	do   func(db []byte, rng *rand.Rand) []byte
	must bool // whether it can't be overlooked
}

func damages() []damage {
	all := []damage{
		{"it is gone", func([]byte, *rand.Rand) []byte { return nil }, false},
		{"it is empty", func([]byte, *rand.Rand) []byte { return []byte{} }, true},
		{"half of it is cut off", func(db []byte, _ *rand.Rand) []byte { return db[:len(db)/2] }, true},
		{"all but its first page is cut off", func(db []byte, _ *rand.Rand) []byte { return db[:4096] }, true},
		{"its first two pages are zero", func(db []byte, _ *rand.Rand) []byte { return append(make([]byte, 8192), db[8192:]...) }, true},
		{"it is noise", func(db []byte, rng *rand.Rand) []byte {
			for i := range db {
				db[i] = byte(rng.Uint32())
			}
			return db
		}, true},
		{"every record has a bit that is flipped", func(db []byte, _ *rand.Rand) []byte {
			return bytes.ReplaceAll(db, []byte(`"containerID"`), []byte(`"containerIE"`))
		}, true},
	}
	for i := range 8 {
		all = append(all, damage{fmt.Sprintf("a bit is flipped, %d", i), func(db []byte, rng *rand.Rand) []byte {
			db[rng.IntN(len(db))] ^= 1 << rng.IntN(8)
			return db
		}, false})
	}
	return all
}

// Whatever happened to the database while podwalld was away: the pods that live
// keep their rules, are known again from libcni's cache and the kernel, and no
// packet that was denied passes meanwhile. A damaged file is set aside, which
// status says.
func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	n := newNode(t).start(t)
	streams := n.streams(t)
	path := filepath.Join(n.StateDir(), "state.db")
	aside, noted := 0, 0
	for _, d := range damages() {
		must(t, n.Kill())
		db, err := os.ReadFile(path)
		must(t, err)
		if db = d.do(db, rng); db == nil {
			must(t, os.Remove(path))
		} else {
			must(t, os.WriteFile(path, db, 0o600))
		}
		must(t, n.Start(t.Context()))
		n.knows(t)
		kept, err := filepath.Glob(path + ".broken-*")
		must(t, err)
		note := n.status(t).Store.Note
		if note != "" {
			noted++
		}
		if len(kept) > aside && note == "" {
			t.Errorf("%s: the file was set aside, and status does not say so", d.name)
		}
		if d.must && (len(kept) != aside+1 || note == "") {
			t.Errorf("%s: %d files set aside, want one more than %d; status says %q", d.name, len(kept), aside, note)
		}
		aside = len(kept)
	}
	t.Logf("%d damages, %d noted, %d files set aside", len(damages()), noted, aside)
	for _, s := range streams {
		s.end(t)
	}
	// What was found again is as good as what was added.
	more := n.add(t, "shop", "more")
	must(t, n.DelPod(t.Context(), n.stranger))
	n.stranger = n.add(t, "other", "stranger")
	must(t, n.Kill())
	must(t, n.Start(t.Context()))
	n.knows(t, more)
	expect(t, n.flows(more)...)
}
