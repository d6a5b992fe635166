package confdir

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/containernetworking/cni/libcni"
	godiff "github.com/rogpeppe/go-internal/diff"

	"github.com/podwall/podwall/install/change"
)

var update = flag.Bool("update", false, "rewrite what the cases want")

// TestGolden runs testdata. A case has these sections:
//
//	flags            drop-in, lists-only, cni-version V, entry JSON, deaf PLUGIN: one a line
//	before/FILE      the directory
//	installed/FILE   the directory when podwall is installed
//	files            the files, as Look sees them then
//	removed/FILE     the directory when podwall is removed; without such sections
//	                 it must be as before
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := Dir{Path: t.TempDir(), Entry: []byte(`{"type": "podwall"}`)}
	options(t, &d, section(ar, "flags"))
	before := under(ar, "before/")
	lay(t, d.Path, before)

	install(t, d)
	installed := tree(t, d.Path)
	expect(t, ar, "installed/", installed)
	got := describe(t, d)
	if *update {
		setSection(ar, "files", got)
	} else if want := section(ar, "files"); got != want {
		t.Errorf("files, got and want:\n%s", godiff.Diff("got", []byte(got), "want", []byte(want)))
	}
	loads(t, d.Path, installed)

	remove(t, d)
	removed := tree(t, d.Path)
	if *update && !maps.Equal(removed, before) && len(under(ar, "removed/")) == 0 {
		t.Errorf("not as before; add a section removed/ if that is right:\n%s", show(removed))
	}
	if len(under(ar, "removed/")) > 0 {
		expect(t, ar, "removed/", removed)
	} else if !maps.Equal(removed, before) {
		t.Errorf("removing did not give back what was before; got:\n%s", show(removed))
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// options takes the case's flags.
func options(t *testing.T, d *Dir, flags string) {
	deaf := ""
	for line := range strings.Lines(flags) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "drop-in":
			d.DropIn = true
		case "lists-only":
			d.ListsOnly = true
		case "cni-version":
			d.CNIVersion = value
		case "entry":
			d.Entry = []byte(value)
		case "deaf":
			deaf = value
		default:
			t.Fatalf("no flag %q", name)
		}
	}
	d.Speak = func(plugins []string, version string) error {
		if slices.Contains(plugins, deaf) {
			return fmt.Errorf("plugin %s speaks only 0.3.1, not %s", deaf, version)
		}
		return nil
	}
}

// install applies what there is to install, and demands that nothing is left.
func install(t *testing.T, d Dir) {
	t.Helper()
	apply(t, d, func(f File) []change.Change { return f.Install })
}

func remove(t *testing.T, d Dir) {
	t.Helper()
	apply(t, d, func(f File) []change.Change { return f.Remove })
}

func apply(t *testing.T, d Dir, which func(File) []change.Change) {
	t.Helper()
	before := networks(t, d.Path)
	for _, when := range []string{"first", "again"} {
		files, err := d.Look()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			for _, c := range which(f) {
				if when == "again" {
					t.Errorf("the second time there is left to do: %s", c.Diff())
				}
				if err := c.Apply(); err != nil {
					t.Fatal(err)
				}
				for name := range before {
					if !networks(t, d.Path)[name] {
						t.Errorf("network %q is missing after\n%s", name, c.Diff())
					}
				}
			}
		}
	}
}

// networks are those that libcni can load.
func networks(t *testing.T, dir string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for name := range tree(t, dir) {
		path := filepath.Join(dir, name)
		if l, err := libcni.NetworkConfFromFile(path); err == nil && filepath.Ext(name) == ".conflist" {
			found[l.Name] = true
		}
		//nolint:staticcheck // runtimes call it
		if c, err := libcni.ConfFromFile(path); err == nil && isSingle(name) {
			found[c.Network.Name] = true
		}
	}
	return found
}

// describe is what Look says, a line a file.
func describe(t *testing.T, d Dir) string {
	t.Helper()
	files, err := d.Look()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		selected := ""
		if f.Selected {
			selected = ", selected"
		}
		fmt.Fprintf(&b, "%s: %v%s: %s\n", filepath.Base(f.Path), f.State, selected, strings.Join(f.Plugins, ", "))
		if f.Problem != "" {
			fmt.Fprintf(&b, "\t%s\n", strings.ReplaceAll(f.Problem, d.Path, "DIR"))
		}
	}
	return b.String()
}

// loads demands that libcni, which runtimes use, loads every list that installing
// changed, drop-in directory and all, and finds podwall in it once.
func loads(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if filepath.Ext(name) != ".conflist" || !strings.Contains(text, `"podwall"`) || strings.Contains(text, "multus") {
			continue
		}
		l, err := libcni.NetworkConfFromFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("libcni: %s: %v", name, err)
			continue
		}
		n := 0
		for _, p := range l.Plugins {
			if p.Network.Type == "podwall" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("libcni: %s: podwall stands there %d times", name, n)
		}
	}
}

func section(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func setSection(ar *txtar.Archive, name, text string) {
	for i := range ar.Files {
		if ar.Files[i].Name == name {
			ar.Files[i].Data = []byte(text)
			return
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(text)})
}

// under returns the sections whose names begin with prefix.
func under(ar *txtar.Archive, prefix string) map[string]string {
	m := map[string]string{}
	for _, f := range ar.Files {
		if name, ok := strings.CutPrefix(f.Name, prefix); ok {
			m[name] = string(f.Data)
		}
	}
	return m
}

// expect compares files with the sections under prefix, or rewrites these.
func expect(t *testing.T, ar *txtar.Archive, prefix string, got map[string]string) {
	t.Helper()
	if *update {
		ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, prefix) })
		for _, name := range slices.Sorted(maps.Keys(got)) {
			setSection(ar, prefix+name, got[name])
		}
		return
	}
	want := under(ar, prefix)
	for name := range maps.Keys(want) {
		if got[name] != want[name] {
			t.Errorf("%s%s, got and want:\n%s", prefix, name, godiff.Diff("got", []byte(got[name]), "want", []byte(want[name])))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s%s is there and should not be", prefix, name)
		}
	}
}

func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree reads a directory, with all below it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func show(files map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "-- %s --\n%s", name, files[name])
	}
	return b.String()
}

// FuzzFile installs podwall in a file of any content and removes it again: that
// gives back every byte, and in between a runtime still has the network.
func FuzzFile(f *testing.F) {
	f.Add(true, []byte(`{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge"}]}`))
	f.Add(false, []byte(`{"cniVersion": "0.2.0", "name": "x", "type": "bridge"}`))
	f.Add(false, []byte(`{"cniVersion": "0.4.0", "name": "m", "type": "multus", "delegates": [{"name": "x", "cniVersion": "1.0.0", "plugins": [{"type": "a"}]}]}`))
	f.Fuzz(func(t *testing.T, isList bool, text []byte) {
		d := Dir{Path: t.TempDir(), Entry: []byte(`{"type": "podwall"}`), CNIVersion: "0.4.0",
			Speak: func([]string, string) error { return nil }}
		name := "10-x.conf"
		if isList {
			name = "10-x.conflist"
		}
		before := map[string]string{name: string(text)}
		lay(t, d.Path, before)
		install(t, d)
		files, err := d.Look()
		if err != nil || len(files) != 1 || len(files[0].Install) > 0 {
			t.Fatalf("%v, %+v", err, files)
		}
		if files[0].State == Chained {
			loads(t, d.Path, tree(t, d.Path))
		}
		remove(t, d)
		if got := tree(t, d.Path); !strings.Contains(string(text), "odwall") && !maps.Equal(got, before) {
			t.Errorf("got back\n%s\nwant\n%s", show(got), show(before))
		}
	})
}
