package store

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PODWALL_STORE_CHILD"); dir != "" {
		writeForEver(dir)
	}
	goleak.VerifyTestMain(m)
}

// compareAddr is how cmp compares addresses, whose fields it can't see.
var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func record(i int) Record {
	return Record{
		Attachment: api.Attachment{
			Key:       api.Key{ContainerID: fmt.Sprintf("%064x", i), Interface: "eth0"},
			Netns:     fmt.Sprintf("/run/netns/cni-%d", i),
			Network:   "shop",
			Namespace: "shop",
			Name:      fmt.Sprintf("web-%d", i),
			UID:       fmt.Sprintf("uid-%d", i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.MustParseAddr("fd00::1")},
		},
		NetnsID:    NetnsID{Device: 4, Inode: uint64(4026532000 + i)},
		Revision:   "sha256:0123456789abcdef",
		Epoch:      ruleset.Epoch(i%100 + 1),
		Generation: uint32(i),
		Adopted:    ruleset.AdoptedTCP,
		AppliedAt:  time.Date(2026, 11, 20, 21, 0, 0, i, time.UTC),
		Took:       time.Millisecond,
	}
}

func records(n int) []Record {
	var rs []Record
	for i := range n {
		rs = append(rs, record(i))
	}
	return rs
}

// fresh is a path where no database is yet.
func fresh(t testing.TB) string {
	return filepath.Join(t.TempDir(), "podwall", "state.db")
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// all is All where nothing may be in quarantine.
func all(t *testing.T, s *Store) []Record {
	t.Helper()
	rs, bad, err := s.All()
	if err != nil || len(bad) > 0 {
		t.Fatalf("All: %v, in quarantine: %v", err, bad)
	}
	return rs
}

func TestReopenedStoreHoldsWhatWasWritten(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	if s.Note() != "" {
		t.Errorf("note of a new database: %q", s.Note())
	}
	must(t, s.PutMany(records(50)))
	changed := record(7)
	changed.Epoch = 9
	must(t, s.Put(changed))
	must(t, s.Delete(record(3).Key))
	must(t, s.Delete(api.Key{ContainerID: "nobody", Interface: "eth0"}))
	must(t, s.SetBoot("boot-1"))
	must(t, s.SaveFiles(map[string][]byte{"a.yaml": []byte("a"), "b.yaml": []byte("b"), "empty.yaml": {}}))
	must(t, s.SaveFiles(map[string][]byte{"a.yaml": []byte("a2"), "b.yaml": nil, "never.yaml": nil}))
	closeStore(t, s)

	for _, when := range []string{"once", "again"} {
		s := open(t, path)
		if s.Note() != "" {
			t.Errorf("opened %s: note %q, want none", when, s.Note())
		}
		want := records(50)
		want[7] = changed
		want = append(want[:3], want[4:]...)
		if diff := cmp.Diff(want, all(t, s), compareAddr); diff != "" {
			t.Errorf("records when opened %s (-want +got):\n%s", when, diff)
		}
		if id, err := s.BootID(); id != "boot-1" || err != nil {
			t.Errorf("BootID when opened %s = %q, %v", when, id, err)
		}
		got, err := s.Files()
		must(t, err)
		if diff := cmp.Diff(map[string][]byte{"a.yaml": []byte("a2"), "empty.yaml": {}}, got); diff != "" {
			t.Errorf("files when opened %s (-want +got):\n%s", when, diff)
		}
		closeStore(t, s)
	}
}

func TestPutManyIsAllOrNothing(t *testing.T) {
	s := open(t, fresh(t))
	nul := record(2)
	nul.ContainerID = "a\x00b"
	if err := s.PutMany([]Record{record(1), nul}); err == nil {
		t.Error("a container id with a NUL was stored")
	}
	if got := all(t, s); len(got) != 0 {
		t.Errorf("%d records after a PutMany that failed, want 0", len(got))
	}
}

func TestKeysAreNotConfused(t *testing.T) {
	s := open(t, fresh(t))
	a, b := record(1), record(1)
	a.Interface, b.Interface = "eth0", "net1"
	must(t, s.PutMany([]Record{a, b}))
	must(t, s.Delete(b.Key))
	if diff := cmp.Diff([]Record{a}, all(t, s), compareAddr); diff != "" {
		t.Errorf("after net1 was deleted (-want +got):\n%s", diff)
	}
}

func TestFilesArePrivate(t *testing.T) {
	path := fresh(t)
	open(t, path)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		fi, err := os.Stat(name)
		must(t, err)
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", name, fi.Mode().Perm(), want)
		}
	}
}

func TestOpenRefusesAndLeavesAlone(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(path string) error
	}{
		{"database that others can write", func(p string) error { return os.Chmod(p, 0o622) }},
		{"database of another user", func(p string) error { return os.Chown(p, 65534, -1) }},
		{"directory that others can write", func(p string) error { return os.Chmod(filepath.Dir(p), 0o770) }},
		{"database that is a symbolic link", linkTo},
		{"directory that is a symbolic link", func(p string) error { return linkTo(filepath.Dir(p)) }},
		{"database that is a directory", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "database of another user" && os.Geteuid() != 0 {
				t.Fatal("this test gives a file away, which takes root")
			}
			path := fresh(t)
			s := open(t, path)
			must(t, s.Put(record(1)))
			closeStore(t, s)
			must(t, tt.prepare(path))
			if s, err := Open(path); err == nil {
				closeStore(t, s)
				t.Error("opened, want an error")
			}
			if aside, _ := filepath.Glob(path + ".broken-*"); len(aside) > 0 {
				t.Errorf("set aside as %v, want it left alone", aside)
			}
		})
	}
}

// linkTo moves name away and puts a link there.
func linkTo(name string) error {
	return errors.Join(os.Rename(name, name+".real"), os.Symlink(name+".real", name))
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	must(t, s.Put(record(1)))
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v, want ErrLocked", err)
	}
	must(t, s.Put(record(2)))
	closeStore(t, s)
	if got := all(t, open(t, path)); len(got) != 2 {
		t.Errorf("%d records after the second Open was refused, want 2", len(got))
	}
}

func TestNewerSchemaIsRefusedAndUntouched(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	must(t, s.update("test", func(t *txn) error { t.head.Schema = schema + 1; return nil }))
	closeStore(t, s)
	before, err := os.ReadFile(path)
	must(t, err)

	var se *SchemaError
	if _, err := Open(path); !errors.As(err, &se) || se.Found != schema+1 || se.Known != schema {
		t.Errorf("Open: %v, want a SchemaError that names %d and %d", err, schema+1, schema)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if string(before) != string(after) {
		t.Error("the file changed")
	}
}

func TestBadRecordIsQuarantinedAndStopsNoOther(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	must(t, s.PutMany(records(5)))
	must(t, s.update("test", func(t *txn) error {
		return t.put(attachments, recordKey(record(2).Key), []byte(`{"epoch": "none"}`))
	}))
	closeStore(t, s)

	s = open(t, path)
	rs, bad, err := s.All()
	must(t, err)
	if diff := cmp.Diff(append(records(2), records(5)[3:]...), rs, compareAddr); diff != "" {
		t.Errorf("the others (-want +got):\n%s", diff)
	}
	if len(bad) != 1 || bad[0].Key != record(2).Key {
		t.Errorf("in quarantine: %v, want the record of %s", bad, record(2).Key)
	}
	if s.Note() == "" {
		t.Error("no note")
	}
	closeStore(t, s)

	if s = open(t, path); s.Note() != "" || len(all(t, s)) != 4 {
		t.Errorf("opened again: note %q and %d records, want none and 4", s.Note(), len(all(t, s)))
	}
}

func TestStatusSaysWhereAndHowBig(t *testing.T) {
	path := fresh(t)
	st := open(t, path).Status()
	if st.Path != path || st.Bytes <= 0 || st.Note != "" {
		t.Errorf("Status = %+v", st)
	}
}
