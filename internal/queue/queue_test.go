package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
)

func key(id string) api.Key { return api.Key{ContainerID: id, Interface: "eth0"} }

// drain returns the ids that Drain offers, all of them accepted.
func drain(t *testing.T, dir string) []string {
	t.Helper()
	var got []string
	if err := Drain(dir, func(k api.Key) error {
		got = append(got, k.ContainerID+"/"+k.Interface)
		return nil
	}); err != nil {
		t.Errorf("Drain: %v", err)
	}
	slices.Sort(got)
	return got
}

func queue(t *testing.T, dir string, keys ...api.Key) {
	t.Helper()
	for _, k := range keys {
		if err := Push(dir, k); err != nil {
			t.Fatal(err)
		}
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPushThenDrain(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "podwalld.sock"))
	if got := drain(t, dir); got != nil {
		t.Errorf("a queue without directory holds %v, want nothing", got)
	}
	queue(t, dir, key("a"), key("b"), key("a"), api.Key{ContainerID: "a", Interface: "net1"})
	if got, want := len(files(t, dir)), 3; got != want {
		t.Errorf("%d files, want %d: a key pushed twice is one", got, want)
	}
	want := []string{"a/eth0", "a/net1", "b/eth0"}
	if got := drain(t, dir); !slices.Equal(got, want) {
		t.Errorf("drained %v, want %v", got, want)
	}
	if got := files(t, dir); got != nil {
		t.Errorf("left after Drain: %v", got)
	}
}

// ("ab", "c") and ("a", "bc") are two attachments.
func TestNamesDoNotCollide(t *testing.T) {
	if a, b := name(api.Key{ContainerID: "ab", Interface: "c"}), name(api.Key{ContainerID: "a", Interface: "bc"}); a == b {
		t.Errorf("both are %s", a)
	}
}

func TestRefusedKeyStays(t *testing.T) {
	dir := t.TempDir()
	queue(t, dir, key("a"), key("b"), key("c"))
	busy := errors.New("busy")
	tried := 0
	err := Drain(dir, func(k api.Key) error {
		tried++
		if k.ContainerID == "b" {
			return busy
		}
		return nil
	})
	if !errors.Is(err, busy) || tried != 3 {
		t.Errorf("Drain = %v after %d keys, want busy after 3", err, tried)
	}
	if got := drain(t, dir); !slices.Equal(got, []string{"b/eth0"}) {
		t.Errorf("drained %v, want the refused b/eth0", got)
	}
}

func TestCancelledKeyIsNotDrained(t *testing.T) {
	dir := t.TempDir()
	queue(t, dir, key("a"), key("b"))
	for range 2 {
		if err := Cancel(dir, key("a")); err != nil {
			t.Fatal(err)
		}
	}
	if got := drain(t, dir); !slices.Equal(got, []string{"b/eth0"}) {
		t.Errorf("drained %v, want b/eth0", got)
	}
}

// While Drain deletes an attachment, Cancel waits: the ADD that calls it must
// come after.
func TestCancelWaitsForDrain(t *testing.T) {
	dir := t.TempDir()
	queue(t, dir, key("a"))
	cancelled := make(chan error)
	var early bool
	if err := Drain(dir, func(k api.Key) error {
		go func() { cancelled <- Cancel(dir, k) }()
		select {
		case err := <-cancelled:
			early = true
			return err
		case <-time.After(20 * time.Millisecond):
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if early {
		t.Fatal("Cancel returned while the key was being accepted")
	}
	if err := <-cancelled; err != nil {
		t.Error(err)
	}
}

func TestDrainSkipsWhatIsCancelledFirst(t *testing.T) {
	dir := t.TempDir()
	queue(t, dir, key("a"))
	f, err := lock(filepath.Join(dir, name(key("a")))) // as Cancel does
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan []string)
	go func() { drained <- drain(t, dir) }()
	time.Sleep(5 * time.Millisecond) // for Drain to be waiting; it need not be
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := <-drained; got != nil {
		t.Errorf("drained %v, which was cancelled", got)
	}
}

func TestUnreadableFileIsSetAside(t *testing.T) {
	dir := t.TempDir()
	queue(t, dir, key("a"))
	bad := filepath.Join(dir, "0000.json")
	if err := os.WriteFile(bad, []byte(`{"containerID": "b`), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := Drain(dir, func(k api.Key) error { got = append(got, k.ContainerID); return nil })
	if err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("Drain = %v, want an error that names %s", err, bad)
	}
	if !slices.Equal(got, []string{"a"}) {
		t.Errorf("drained %v, want a", got)
	}
	if drain(t, dir); !slices.Equal(files(t, dir), []string{"0000.json.unreadable"}) {
		t.Errorf("left: %v, want only the file that was set aside", files(t, dir))
	}
}

func TestUnfinishedPush(t *testing.T) {
	dir := t.TempDir()
	fresh, old := filepath.Join(dir, temporary+"1"), filepath.Join(dir, temporary+"2")
	for _, path := range []string{fresh, old} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * stale)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	drain(t, dir)
	if got, want := files(t, dir), []string{filepath.Base(fresh)}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v: only what is old was abandoned", got, want)
	}
}

func TestFullQueueRefuses(t *testing.T) {
	dir := t.TempDir()
	for i := range Limit {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Push(dir, key("a")); !errors.Is(err, ErrFull) {
		t.Errorf("Push = %v, want ErrFull", err)
	}
	if err := os.Remove(filepath.Join(dir, "0.json")); err != nil {
		t.Fatal(err)
	}
	if err := Push(dir, key("a")); err != nil {
		t.Errorf("Push with room for one = %v", err)
	}
}

func TestDirectoryThatIsAFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deleted")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Push(dir, key("a")); err == nil {
		t.Error("Push into a file succeeded")
	}
	if err := Drain(dir, func(api.Key) error { return nil }); err == nil {
		t.Error("Drain of a file succeeded")
	}
}

// Whatever Push takes, Drain gives back; what it refuses leaves no file.
func FuzzPush(f *testing.F) {
	f.Add("4f8c", "eth0")
	f.Add("../../etc/passwd", "net1")
	f.Add("a\x00b", "\xff")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, id, iface string) {
		dir := t.TempDir()
		k := api.Key{ContainerID: id, Interface: iface}
		if Push(dir, k) != nil {
			if got := files(t, dir); got != nil {
				t.Errorf("a refused key left %v", got)
			}
			return
		}
		if got, want := drain(t, dir), k.ContainerID+"/"+k.Interface; !slices.Equal(got, []string{want}) {
			t.Errorf("drained %q, want %q", got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"containerID":"4f8c","interface":"eth0"}`, `{"containerID":"4f8c"}`, `{}`, `null`, ``, `[]`,
		`{"containerID":"a","interface":"eth0"} x`, `{"containerID":"a","interface":"eth0","more":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := Parse(b)
		if err != nil {
			return
		}
		if k.ContainerID == "" || k.Interface == "" {
			t.Errorf("Parse(%q) = %+v, which is no attachment", b, k)
		}
	})
}
