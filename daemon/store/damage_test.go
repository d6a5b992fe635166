package store

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// image is the file of a database with some history: pages in use, free pages
// with old content, a branch page and an overflow page.
func image(t testing.TB) ([]byte, []Record) {
	t.Helper()
	path := fresh(t)
	s := open(t, path)
	want := records(40)
	must(t, s.PutMany(want))
	for i := range 5 {
		want[i].Epoch = 77
		must(t, s.Put(want[i]))
	}
	must(t, s.SaveFiles(map[string][]byte{"a.yaml": bytes.Repeat([]byte("x"), 6000)}))
	must(t, s.SetBoot("boot-1"))
	closeStore(t, s)
	b, err := os.ReadFile(path)
	must(t, err)
	return b, want
}

// checkDamaged opens a file with the given content. Either everything is there,
// or a note says that it is not, and the store works.
func checkDamaged(t *testing.T, dir, what string, content []byte, want []Record) {
	t.Helper()
	path := filepath.Join(dir, "state.db")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(path, content, 0o600))
	s, err := Open(path)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	got, _, err := s.All()
	if err != nil {
		t.Errorf("%s: All: %v", what, err)
	}
	boot, _ := s.BootID()
	files, _ := s.Files()
	intact := cmp.Equal(want, got, compareAddr) && boot == "boot-1" && len(files["a.yaml"]) == 6000
	if !intact && s.Note() == "" {
		t.Errorf("%s: content is lost and no note says so", what)
	}
	if strings.Contains(s.Note(), "set aside") {
		aside, _ := filepath.Glob(path + ".broken-*")
		if len(aside) != 1 {
			t.Errorf("%s: set aside as %v, want one file", what, aside)
		} else if b, _ := os.ReadFile(aside[0]); !bytes.Equal(b, content) {
			t.Errorf("%s: what was set aside differs from what was found", what)
		}
	}
	must(t, s.PutMany(records(100)))
	if rs, _, err := s.All(); err != nil || len(rs) < 100 {
		t.Errorf("%s: %d records and %v after 100 were put", what, len(rs), err)
	}
	closeStore(t, s)
	must(t, os.RemoveAll(dir))
}

// emptyDir is in memory where there is such a place: these tests are about what
// a file holds, and would wait for the disk most of the time.
func emptyDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "podwall-test-")
	if err != nil {
		return filepath.Dir(fresh(t))
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTruncatedFileIsIntactOrNoted(t *testing.T) {
	content, want := image(t)
	dir := emptyDir(t)
	for n := 0; n < len(content); n += 512 {
		checkDamaged(t, dir, fmt.Sprintf("cut to %d of %d bytes", n, len(content)), content[:n], want)
	}
}

func TestFlippedBitIsHarmlessOrNoted(t *testing.T) {
	content, want := image(t)
	dir := emptyDir(t)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		bit := rnd.IntN(len(content) * 8)
		flipped := bytes.Clone(content)
		flipped[bit/8] ^= 1 << (bit % 8)
		checkDamaged(t, dir, fmt.Sprintf("seed %d: bit %d flipped", seed, bit), flipped, want)
	}
}

// Most of a page is content. The places where a flip makes bbolt itself go
// wrong are the beginnings of pages.
func TestFlippedBitInAPageHeaderIsHarmlessOrNoted(t *testing.T) {
	content, want := image(t)
	dir := emptyDir(t)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for page := 0; page < len(content); page += os.Getpagesize() {
		for range 6 {
			bit := rnd.IntN(48 * 8)
			flipped := bytes.Clone(content)
			flipped[page+bit/8] ^= 1 << (bit % 8)
			checkDamaged(t, dir, fmt.Sprintf("seed %d: page at %d: bit %d flipped", seed, page, bit), flipped, want)
		}
	}
}

func TestForeignFileIsSetAside(t *testing.T) {
	for name, content := range map[string]string{
		"empty":  "",
		"text":   "this is not a database\n",
		"zeroes": strings.Repeat("\x00", 1<<16),
		"random": strings.Repeat("\xed\x0c\xda\xed\x02", 20000),
	} {
		t.Run(name, func(t *testing.T) {
			checkDamaged(t, emptyDir(t), name, []byte(content), nil)
		})
	}
}

// FuzzOpen changes bytes of a database at will.
func FuzzOpen(f *testing.F) {
	content, _ := image(f)
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(4096), []byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		b := bytes.Clone(content)
		copy(b[int(at)%len(b):], with)
		dir := emptyDir(t)
		must(t, os.MkdirAll(dir, 0o700))
		path := filepath.Join(dir, "state.db")
		must(t, os.WriteFile(path, b, 0o600))
		s, err := Open(path)
		if err != nil {
			return
		}
		if _, _, err := s.All(); err != nil {
			t.Errorf("All: %v", err)
		}
		if err := s.PutMany(records(3)); err != nil {
			t.Errorf("PutMany: %v", err)
		}
		closeStore(t, s)
	})
}

// writeForEver is the process that TestKilledWriterLosesNothing kills. It
// prints the number of each record once it is stored.
func writeForEver(dir string) {
	s, err := Open(filepath.Join(dir, "state.db"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		if err := s.Put(record(i)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

func TestKilledWriterLosesNothing(t *testing.T) {
	for round := range 8 {
		dir := filepath.Join(t.TempDir(), "podwall")
		acknowledged := killedAfter(t, dir, 20+round*17)
		s := open(t, filepath.Join(dir, "state.db"))
		if s.Note() != "" {
			t.Errorf("round %d: note %q, want none", round, s.Note())
		}
		got := all(t, s)
		// The last one may be stored and not yet printed.
		if len(got) != acknowledged && len(got) != acknowledged+1 {
			t.Fatalf("round %d: %d records, want the %d that were acknowledged", round, len(got), acknowledged)
		}
		if diff := cmp.Diff(records(len(got)), got, compareAddr); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", round, diff)
		}
		closeStore(t, s)
	}
}

// killedAfter runs a writer in dir, kills it after at least n records, and
// returns how many it acknowledged.
func killedAfter(t *testing.T, dir string, n int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PODWALL_STORE_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	count := 0
	for lines.Scan() {
		if lines.Text() != fmt.Sprint(count) {
			t.Fatalf("writer says %q after %d records", lines.Text(), count)
		}
		if count++; count == n {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // killed
	return count
}

// Each value of such a file is sound; only the tally tells.
func TestVanishedAndRevivedValuesAreNoted(t *testing.T) {
	key := recordKey(record(1).Key)
	tests := []struct {
		name string
		harm func(b *bolt.Bucket, old []byte) error
	}{
		{"a value that vanished", func(b *bolt.Bucket, _ []byte) error { return b.Delete(key) }},
		{"an old value that came back", func(b *bolt.Bucket, old []byte) error { return b.Put(key, old) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := fresh(t)
			s := open(t, path)
			must(t, s.PutMany(records(3)))
			var old []byte
			must(t, s.view("test", func(x *txn) error {
				old = bytes.Clone(x.tx.Bucket([]byte(attachments)).Get(key))
				return nil
			}))
			changed := record(1)
			changed.Epoch++
			must(t, s.Put(changed))
			must(t, s.db.Update(func(tx *bolt.Tx) error { return tt.harm(tx.Bucket([]byte(attachments)), old) }))
			closeStore(t, s)
			if note := open(t, path).Note(); !strings.Contains(note, "attachments: ") {
				t.Errorf("note %q, want one about attachments", note)
			}
		})
	}
}
