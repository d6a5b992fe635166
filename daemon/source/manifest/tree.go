package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/podwall/podwall/internal/api"
)

// maxSize is the size of the largest file that is read.
const maxSize = 16 << 20

// keptPrefix begins the names under which Files keeps the NetworkPolicies that
// outlive their file. Names in the directory never begin so: hidden files don't
// count.
const keptPrefix = ".kept/"

// A tree is the directory as it counts: what was read, and what was read before
// where that is better.
type tree struct {
	dir     string
	store   Files
	files   map[string]*file
	kept    map[string]object // NetworkPolicies that outlive their file, by object.String
	inForce map[string]object // NetworkPolicies of the last world, by object.String
	pending map[string][]byte // to be stored; nil deletes
	seen    bool              // the directory has been read once
	// What is wrong with the directory, with storing, and what was wrong when
	// the store was read.
	dirFault, saveFault, loadFault string
}

// A file is one file of the directory.
type file struct {
	sum      [sha256.Size]byte // of the content that was parsed last
	good     bool              // objects are of a content without faults
	objects  []object          // that count
	problems []api.Problem     // with those
	faults   []string          // why the objects are not all the file holds now
}

// take makes c the file's content, if it is better than what was there, and
// reports whether it is good.
func (f *file) take(c contents) bool {
	if len(c.faults) > 0 && f.good {
		f.blame(c.faults...)
		return false
	}
	f.good = len(c.faults) == 0
	f.objects, f.problems = c.objects, c.problems
	f.blame(c.faults...)
	return f.good
}

// blame notes what is wrong with the file, and what counts instead.
func (f *file) blame(faults ...string) {
	instead := "; no good content of the file is known, so what can be read of it counts"
	if f.good {
		instead = "; the file's last good content stays in force"
	}
	f.faults = nil
	for _, fault := range faults {
		f.faults = append(f.faults, fault+instead)
	}
}

// newTree begins with what the store kept.
func newTree(dir string, store Files) *tree {
	t := &tree{
		dir:     dir,
		store:   store,
		files:   map[string]*file{},
		kept:    map[string]object{},
		pending: map[string][]byte{},
	}
	if store == nil {
		return t
	}
	contents, err := store.Files()
	if err != nil {
		t.loadFault = fmt.Sprintf("the last good content of its files is not known: %v", err)
	}
	for name, data := range contents {
		c := parse(name, data)
		if strings.HasPrefix(name, keptPrefix) {
			for _, o := range c.objects {
				t.kept[o.String()] = o
			}
			continue
		}
		f := &file{sum: sha256.Sum256(data)}
		f.take(c)
		t.files[name] = f
	}
	t.remember(t.objects())
	return t
}

// remember notes which NetworkPolicies are in force.
func (t *tree) remember(objects []object) {
	t.inForce = maps.Clone(t.kept)
	for _, o := range objects {
		if o.kind == policyKind && !o.alias {
			t.inForce[o.String()] = o
		}
	}
}

// objects are the objects of all files, in the order of file names.
func (t *tree) objects() []object {
	var all []object
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		all = append(all, t.files[name].objects...)
	}
	return all
}

// scan reads the directory again. If it can't be read all of it stays as it is.
func (t *tree) scan() {
	names, err := list(t.dir)
	t.dirFault = ""
	if err != nil {
		t.dirFault = fmt.Sprintf("%v; what was there before stays in force, until an empty directory withdraws it", cause(err))
		return
	}
	t.seen = true
	for name := range t.files {
		if _, there := slices.BinarySearch(names, name); !there {
			delete(t.files, name)
			t.pending[name] = nil
		}
	}
	for _, name := range names {
		t.read(name)
	}
}

// unknown says why nothing is known, if that is so.
func (t *tree) unknown() string {
	if t.seen || len(t.files)+len(t.kept) > 0 {
		return ""
	}
	return t.dirFault
}

// list returns the names of the manifests in dir, in order.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if isManifest(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// read reads one file, if it changed.
func (t *tree) read(name string) {
	f := t.files[name]
	if f == nil {
		f = &file{}
		t.files[name] = f
	}
	data, err := content(filepath.Join(t.dir, name))
	if err != nil {
		f.sum = [sha256.Size]byte{}
		f.blame(err.Error())
		return
	}
	sum := sha256.Sum256(data)
	if sum == f.sum {
		return
	}
	f.sum = sum
	if f.take(parse(name, data)) {
		t.pending[name] = data
	}
}

// content reads a file, which may be anything and may change meanwhile.
func content(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // of a pipe, without waiting for a writer
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, cause(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, cause(err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d MiB; split it", maxSize>>20)
	}
	return data, nil
}

// cause is err without the path, which the Problem names.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// save stores what changed. What can't be stored is tried again the next time.
func (t *tree) save() {
	t.saveFault = ""
	if t.store == nil || len(t.pending) == 0 {
		return
	}
	if err := t.store.SaveFiles(t.pending); err != nil {
		t.saveFault = fmt.Sprintf("the last good content of its files is not kept for a restart: %v", err)
		return
	}
	t.pending = map[string][]byte{}
}

// problems are those of the directory and of its files.
func (t *tree) problems() []api.Problem {
	var all []api.Problem
	for _, fault := range []string{t.dirFault, t.saveFault, t.loadFault} {
		if fault != "" {
			all = append(all, api.Problem{Object: t.dir, Message: fault})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		f := t.files[name]
		for _, fault := range f.faults {
			all = append(all, api.Problem{Object: name, Message: fault})
		}
		all = append(all, f.problems...)
	}
	return all
}
